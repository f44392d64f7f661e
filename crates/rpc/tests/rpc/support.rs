//! A service that does what its caller asks for, and the two ways to reach it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use guildhall_domain::{Call, Error, ErrorCode, Principal, PrincipalKind, TenantId, TraceContext};
use guildhall_proto::agent_registry::v1::{
    self as wire, Agent, GetRequest, GetResponse,
    agent_registry_service_client::AgentRegistryServiceClient as Client,
    agent_registry_service_server::{AgentRegistryService, AgentRegistryServiceServer as Server},
};
use guildhall_rpc::{MESSAGE_MAX_BYTES, RemoteOptions, ServeOptions, Transport, call, serve, status};
use guildhall_runtime::{Listener, Shutdown};
use serde_json::json;
use tonic::{Request, Response, Status};

/// Answers `Get`; the agent id says how.
#[derive(Clone, Default)]
pub(crate) struct Stub {
    pub(crate) name: String,
    pub(crate) seen: Arc<AtomicUsize>,
    /// Calls that ended before they were answered.
    pub(crate) dropped: Arc<AtomicUsize>,
}

pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The error that the stub answers `error:<code>` with.
pub(crate) fn full_error(code: ErrorCode) -> Error {
    Error::new(code, "what happened: ä\n100 %")
        .with_retry_after(Duration::from_millis(1234))
        .with_details(json!({"fields": ["a", 1, null], "long": "x".repeat(20_000)}))
        .with_guidance("what to do")
}

struct DropCounter(Option<Arc<AtomicUsize>>);

impl Drop for DropCounter {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Stub {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    async fn answer(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let mut unanswered = DropCounter(Some(self.dropped.clone()));
        let call = call::incoming(&request).map_err(status::to_status)?;
        let asked = request.into_inner().agent_id;
        let mut agent = Agent { agent_id: self.name.clone(), ..Agent::default() };
        match asked.split_once(':').unwrap_or((&asked, "")) {
            ("sleep", millis) => tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await,
            ("panic", words) => panic!("{words}"),
            ("error", code) => return Err(status::to_status(full_error(ErrorCode::from_name(code).unwrap()))),
            ("bytes", count) => agent.metadata_json = "x".repeat(count.parse().unwrap()),
            ("call", _) => {
                agent.tenant = call.principal.tenant.to_string();
                agent.name = call.principal.id.to_string();
                agent.roles = call.principal.roles.iter().cloned().collect();
                agent.metadata_json = format!("{}|{}", call.trace.traceparent, call.trace.tracestate);
                agent.registered_at_ms = i64::try_from(call.remaining().unwrap().as_millis()).unwrap();
            }
            _ => {}
        }
        unanswered.0 = None;
        Ok(Response::new(GetResponse { agent: Some(agent) }))
    }
}

macro_rules! stub_of_everything_else {
    ($($method:ident $request:ident $response:ident;)*) => {
        #[tonic::async_trait]
        impl AgentRegistryService for Stub {
            async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
                self.answer(request).await
            }
            $(async fn $method(&self, _: Request<wire::$request>) -> Result<Response<wire::$response>, Status> {
                Err(Status::unimplemented("not in this test"))
            })*
        }
    };
}

stub_of_everything_else! {
    register RegisterRequest RegisterResponse;
    list ListRequest ListResponse;
    remove RemoveRequest RemoveResponse;
    pause PauseRequest PauseResponse;
    resume ResumeRequest ResumeResponse;
    set_key SetKeyRequest SetKeyResponse;
    webhook_secret WebhookSecretRequest WebhookSecretResponse;
    wanting WantingRequest WantingResponse;
    heartbeats HeartbeatsRequest HeartbeatsResponse;
    access AccessRequest AccessResponse;
    issue_token IssueTokenRequest IssueTokenResponse;
    revoke RevokeRequest RevokeResponse;
    rotate_signing_key RotateSigningKeyRequest RotateSigningKeyResponse;
    create_registration_key CreateRegistrationKeyRequest CreateRegistrationKeyResponse;
    registration_keys RegistrationKeysRequest RegistrationKeysResponse;
    revoke_registration_key RevokeRegistrationKeyRequest RevokeRegistrationKeyResponse;
    record_audit RecordAuditRequest RecordAuditResponse;
    audit AuditRequest AuditResponse;
    verify_audit VerifyAuditRequest VerifyAuditResponse;
}

pub(crate) fn server(stub: Stub) -> Server<Stub> {
    Server::new(stub).max_decoding_message_size(MESSAGE_MAX_BYTES).max_encoding_message_size(MESSAGE_MAX_BYTES)
}

pub(crate) fn in_process(stub: Stub) -> Transport {
    Transport::in_process(server(stub))
}

pub(crate) fn remote(stub: Stub) -> Transport {
    let (address, _shutdown) = listen(stub, ServeOptions::default());
    to([address], RemoteOptions::new("stub"))
}

/// Serves the stub on a free port.
pub(crate) fn listen(stub: Stub, options: ServeOptions) -> (SocketAddr, Shutdown) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
    let (address, shutdown) = (listener.address(), Shutdown::default());
    let until = shutdown.clone();
    let server = server(stub);
    tokio::spawn(async move { serve(listener, server, options, &until).await.unwrap() });
    (address, shutdown)
}

pub(crate) fn to(addresses: impl IntoIterator<Item = SocketAddr>, options: RemoteOptions) -> Transport {
    Transport::remote(addresses.into_iter().map(|a| format!("http://{a}")), options).unwrap()
}

/// An address at which nothing listens.
pub(crate) fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn caller() -> Call {
    let principal = Principal::new(TenantId::new("acme").unwrap(), PrincipalKind::Agent, "worker-1", ["agent", "x"]);
    let trace = TraceContext { traceparent: TRACEPARENT.into(), tracestate: "a=1".into() };
    Call::within(principal, Duration::from_secs(10)).with_trace(trace)
}

/// One call, as a service's client adapter makes it.
pub(crate) async fn ask(transport: &Transport, call: &Call, what: impl Into<String>) -> Result<Agent, Error> {
    let request = call::outgoing(call, GetRequest { agent_id: what.into() })?;
    let mut client = Client::new(transport.clone())
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let answer = client.get(request).await.map_err(status::from_status)?;
    Ok(answer.into_inner().agent.unwrap())
}

pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}
