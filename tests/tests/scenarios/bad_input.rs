//! What does not fit is refused whole, in the one shape that errors have, and the hall goes on.

use guildhall_tests::{
    Answer, Hall, Setup,
    mcp::{self, Session, Stateless},
    scenarios,
};
use reqwest::Method;
use serde_json::{Value, json};

scenarios! {
    malformed_json_is_refused_in_the_one_shape(Setup::open());
    an_unknown_route_or_method_says_so(Setup::open());
    a_body_of_two_mebibytes_is_refused(Setup::open());
    a_foreign_host_or_origin_is_refused(Setup::open());
    malformed_mcp_is_refused_by_its_own_rules(Setup::open());
    mcp_with_wrong_headers_is_refused(Setup::open());
    an_unknown_mcp_method_or_tool_is_an_error_of_the_protocol(Setup::open());
}

async fn raw(hall: &Hall, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = hall.agent("clumsy").header("accept", "application/json, text/event-stream");
    Answer::to(request.request(Method::POST, path).header("content-type", content_type).body(body)).await
}

async fn malformed_json_is_refused_in_the_one_shape(hall: &Hall) {
    let deep = "[".repeat(100_000);
    let faults: [&[u8]; 8] = [
        b"",
        b"{",
        b"{\"agent_id\":\"x\",}",
        b"null",
        b"\xff\xfe",
        b"{\"agent_id\": \"a\0b\"}",
        b"NaN",
        deep.as_bytes(),
    ];
    for fault in faults {
        let answer = raw(hall, "/api/v1/agents/register", "application/json", fault.to_vec()).await;
        answer.refused(400, "InvalidParams");
    }
    for fault in [&b"{"[..], b"[]", b"7", b"{\"limit\": \"three\"}", b"{\"unheard_of\": 1}"] {
        let answer = raw(hall, "/tools/list_agents", "application/json", fault.to_vec()).await;
        answer.refused(400, "InvalidParams");
    }
    // A key that comes twice could mean either.
    let twice = r#"{"agent_id": "one", "agent_id": "two", "name": "x"}"#;
    raw(hall, "/api/v1/agents/register", "application/json", twice).await.refused(400, "InvalidParams");
    assert_eq!(hall.caller().get("/api/v1/agents").await.ok()["total"], 0);
}

async fn an_unknown_route_or_method_says_so(hall: &Hall) {
    for path in ["/", "/api/v1/nothing", "/api/v2/agents", "/mcp/nothing/here", "/api/v1/agents/../../etc/passwd"] {
        hall.caller().get(path).await.refused(404, "NotFound");
    }
    hall.caller().post("/tools/no_such_tool", json!({})).await.refused(404, "NotFound");
    for (method, path) in
        [(Method::PUT, "/api/v1/agents"), (Method::PATCH, "/api/v1/agents/x"), (Method::GET, "/tools/list_agents")]
    {
        Answer::to(hall.caller().request(method, path)).await.refused(405, "InvalidParams");
    }
    for id in ["%20", "a%2Fb", "-x", "ALL", "a%00b", "%F0%9F%A4%96", &"x".repeat(129)] {
        hall.caller().get(&format!("/api/v1/agents/{id}")).await.refused(400, "InvalidParams");
    }
}

async fn a_body_of_two_mebibytes_is_refused(hall: &Hall) {
    let large = format!(r#"{{"agent_id": "large", "name": "{}"}}"#, "x".repeat(2 * 1024 * 1024));
    for path in ["/api/v1/agents/register", "/tools/register_agent"] {
        raw(hall, path, "application/json", large.clone()).await.refused(413, "PayloadTooLarge");
    }
    // The same without a length in front of it.
    let chunks = large.as_bytes().chunks(64 * 1024).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
    let chunks: Vec<_> = chunks.collect();
    let streamed = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    raw(hall, "/api/v1/agents/register", "application/json", streamed).await.refused(413, "PayloadTooLarge");

    let arguments = json!({"name": "x".repeat(2 * 1024 * 1024)});
    let answer = Stateless::tool("register_agent", arguments).by(&hall.agent("large")).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(hall.caller().get("/api/v1/agents").await.ok()["total"], 0);
}

async fn a_foreign_host_or_origin_is_refused(hall: &Hall) {
    // Probes are asked by address, whatever that is, and tell nothing of worth.
    for path in ["/api/v1/agents", "/api/openapi.json", "/mcp"] {
        let rebound = hall.caller().header("host", "attacker.example:8016").get(path).await;
        rebound.refused(403, "PermissionDenied");
        let page = hall.caller().header("origin", "https://attacker.example").get(path).await;
        page.refused(403, "PermissionDenied");
    }
    let answer = mcp::initialize(&hall.caller().header("origin", "https://attacker.example")).await;
    assert_eq!(answer.status, 403, "{}", answer.text);
    let port = hall.address().port();
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        hall.caller().header("host", &host).get("/api/v1/agents").await.ok();
    }
}

async fn malformed_mcp_is_refused_by_its_own_rules(hall: &Hall) {
    for fault in ["", "{", "null", "\"x\"", "7"] {
        let answer = raw(hall, "/mcp", "application/json", fault).await;
        let code = mcp::error_code(&answer, 400);
        assert!([-32700, -32600].contains(&code), "{fault}: {}", answer.text);
    }
    let session = Session::open(&hall.agent("clumsy")).await;
    for (fault, codes) in [
        (json!({"jsonrpc": "1.0", "id": 1, "method": "tools/list"}), &[-32600][..]),
        (json!({"id": 1, "method": "tools/list"}), &[-32600]),
        (json!({"jsonrpc": "2.0", "id": {}, "method": "tools/list"}), &[-32600]),
        (json!({"jsonrpc": "2.0", "id": 1, "method": 7}), &[-32600]),
    ] {
        let answer = session.post(fault.clone()).await;
        let code = mcp::message(&answer)["error"]["code"].as_i64();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{fault}: {} {}", answer.status, answer.text);
    }
    // The session has not suffered.
    session.result("tools/list", json!({})).await;
    let list = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}"#;
    let form = raw(hall, "/mcp", "application/x-www-form-urlencoded", list).await;
    assert_eq!(form.status, 415, "{}", form.text);
}

async fn mcp_with_wrong_headers_is_refused(hall: &Hall) {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": mcp::OLD, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}});
    let html = hall.caller().header("accept", "text/html").post("/mcp", body).await;
    assert_eq!(html.status, 406, "{}", html.text);

    let session = Session::open(&hall.agent("old")).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let with = hall.agent("old").header("accept", "application/json, text/event-stream");
    let strange = with.header("mcp-session-id", &session.id).header("mcp-protocol-version", "1999-01-01");
    assert_eq!(strange.post("/mcp", list.clone()).await.status, 400);
    // No session, and nothing that says a new client: the client is told to begin.
    let answer = with.header("mcp-protocol-version", mcp::OLD).post("/mcp", list.clone()).await;
    assert!([400, 404, 422].contains(&answer.status), "{} {}", answer.status, answer.text);
    let unknown = with.header("mcp-session-id", "made-up").header("mcp-protocol-version", mcp::OLD);
    assert_eq!(unknown.post("/mcp", list).await.status, 404, "an unknown session is a reason to begin again");
}

async fn an_unknown_mcp_method_or_tool_is_an_error_of_the_protocol(hall: &Hall) {
    let session = Session::open(&hall.agent("old")).await;
    let old = session.ask("no/such/method", json!({})).await;
    assert_eq!(mcp::error_code(&old, 200), -32601, "an old client's status stays 200");
    let new = Stateless::new("no/such/method", json!({})).by(&hall.agent("new")).await;
    assert_eq!(mcp::error_code(&new, 404), -32601);

    let unknown_tool = session.ask("tools/call", json!({"name": "no_such_tool", "arguments": {}})).await;
    assert_eq!(mcp::message(&unknown_tool)["error"]["code"], -32602, "{}", unknown_tool.text);
    let unknown_tool = Stateless::tool("no_such_tool", json!({})).by(&hall.agent("new")).await;
    assert_eq!(mcp::message(&unknown_tool)["error"]["code"], -32602, "{}", unknown_tool.text);

    // A tool that was found and could not do its work says so in its result.
    for result in [
        session.call("list_agents", json!({"limit": 0})).await,
        Stateless::tool("list_agents", json!({"limit": 0})).result(&hall.agent("new")).await,
    ] {
        assert_eq!(result["isError"], true, "{result}");
        assert!(result.get("structuredContent").is_none(), "{result}");
        let said: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!((&said["success"], &said["error"]), (&json!(false), &json!("InvalidParams")), "{said}");
    }
}
