//! The hall as an MCP server: what each method of the protocol means here. rmcp speaks the protocol; this answers.

use std::{borrow::Cow, sync::Arc};

use axum::http::request::Parts;
use guildhall_domain::{Call, Error, TraceContext};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
        CreateTaskResult, Extensions, GetTaskParams, GetTaskResult, Implementation, InitializeRequestParams,
        InitializeResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
        PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
        Reference, ServerCapabilities, ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool,
        UnsubscribeRequestParams, UpdateTaskParams,
    },
    service::{RequestContext, SubscriptionContext},
};
use serde_json::Value;

use super::{
    as_it_came::AsItCame, fellows::subject, log::Log, progress::ToClient, sessions::session_id, tasks, watch::Watched,
};
use crate::{
    error::{rpc_error, tool_failure},
    hall::Hall,
    identity::{Caller, caller_of},
    requests::Listener,
    resources,
    tools::{Ask, Narrowed},
    unread,
};

/// Lists change when the hall's configuration or its version does, so a client may keep one for a while.
const LIST_TTL_MS: u64 = 60_000;

/// One per session of an old client, one per request of a new one.
pub(crate) struct McpHandler {
    hall: Arc<Hall>,
    watched: Arc<Watched>,
    log: Log,
}

impl McpHandler {
    pub(crate) fn new(hall: Arc<Hall>, watched: Arc<Watched>) -> Self {
        Self { watched, log: Log::default(), hall }
    }
}

struct Request<'a> {
    caller: Caller,
    call: Call,
    parts: &'a Parts,
}

/// Who makes this request, from the HTTP request that it came in.
fn request<'a>(context: &'a RequestContext<RoleServer>) -> Result<Request<'a>, ErrorData> {
    let parts = parts(&context.extensions)?;
    let caller = caller_of(parts).map_err(|error| rpc_error(&error))?;
    let mut call = caller.call();
    // MCP carries the trace in the message; it is nearer to the caller than the connection's.
    if let Some(Value::String(traceparent)) = context.meta.get("traceparent") {
        call.trace = TraceContext { traceparent: traceparent.clone(), tracestate: String::new() };
    }
    Ok(Request { caller, call, parts })
}

fn parts(extensions: &Extensions) -> Result<&Parts, ErrorData> {
    extensions.get::<Parts>().ok_or_else(|| {
        rpc_error(&Error::internal("the message came without its HTTP request; this is a fault of the hall, report it"))
    })
}

#[expect(deprecated, reason = "clients before 2026-07-28 may ask for logs")]
impl ServerHandler for McpHandler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_prompts()
            .enable_completions()
            .enable_logging()
            .enable_tasks()
            .build();
        InitializeResult::new(capabilities)
            .with_server_info(Implementation::new("guildhall", env!("CARGO_PKG_VERSION")).with_title("Guildhall"))
            .with_instructions(
                "One hall in which agents meet. register_agent makes you known, list_agents shows who is here, \
                 send_message writes to them, check_inbox reads what they wrote.",
            )
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let caller = caller_of(parts(&context.extensions)?).map_err(|error| rpc_error(&error))?;
        self.watched.met(&context.peer, &caller.principal.tenant);
        self.negotiate_initialize(&request)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let Request { caller, parts, .. } = request(&context)?;
        let narrowed = Narrowed::by(parts.uri.query());
        let tools = self.hall.tools.visible(&self.hall.policy, &caller.principal, &narrowed);
        let mut list = ListToolsResult::with_all_items(tools.map(|tool| tool.shown.clone()).collect());
        // What a caller sees depends on its roles: a shared cache must not hand it to another.
        list.ttl_ms = Some(LIST_TTL_MS);
        list.cache_scope = Some(CacheScope::Private);
        Ok(list)
    }

    /// For rmcp's check of `Mcp-Param-*` headers, which knows no caller; what a caller may call is judged later.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.hall.tools.known(name).map(|tool| tool.shown.clone())
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Request { caller, call, parts } = request(&context)?;
        let narrowed = Narrowed::by(parts.uri.query());
        let Some(tool) = self.hall.tools.find(&params.name, &self.hall.policy, &caller.principal, &narrowed) else {
            return Err(rpc_error(&Error::invalid(format!("there is no tool {:?} that you may call", params.name))));
        };
        let came = AsItCame::of(parts).map_err(|error| rpc_error(&error))?;
        let arguments = came.arguments(&params).map_err(|error| rpc_error(&error))?;
        let progress = ToClient::of(&context);
        let mut ask = Ask::new(&self.hall, &call, &came.handover);
        ask.listener = progress.as_ref().map(|progress| progress as &dyn Listener);
        let result = tokio::select! {
            result = crate::tools::call(&ask, tool, &arguments) => result,
            // Nobody waits for the answer any more; dropping the call cancels it.
            () = context.ct.cancelled() => Err(Error::new(guildhall_domain::ErrorCode::Cancelled, "the caller cancelled the call")),
        };
        let mut told = match result {
            Ok(text) => match ask.begun() {
                Some(request) if context.client_capabilities().is_some_and(|client| client.supports_tasks()) => {
                    return Ok(CallToolResponse::Task(CreateTaskResult::new(tasks::begun(&request))));
                }
                _ => tasks::success(text.get()),
            },
            Err(error) => {
                self.log.tool_failed(&context, &params.name, &error).await;
                tool_failure(&error)
            }
        };
        let off = context.meta.get(unread::META_KEY).is_some_and(|said| said == "off");
        if !off && !unread::is_off(&parts.uri) {
            unread::tell(&mut told, &self.hall.unread.of(&call.principal).await);
        }
        Ok(told.into())
    }

    async fn get_task(
        &self,
        params: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let Request { call, .. } = request(&context)?;
        let task = tasks::get(&self.hall, &call, &params.task_id).await.map_err(|error| rpc_error(&error))?;
        Ok(GetTaskResult::new(task))
    }

    async fn update_task(
        &self,
        params: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let Request { call, .. } = request(&context)?;
        tasks::update(&self.hall, &call, &params.task_id).await.map_err(|error| rpc_error(&error))
    }

    async fn cancel_task(
        &self,
        params: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let Request { call, .. } = request(&context)?;
        tasks::cancel(&self.hall, &call, &params.task_id).await.map_err(|error| rpc_error(&error))
    }

    async fn set_level(
        &self,
        params: rmcp::model::SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        request(&context)?;
        self.log.set_level(params.level);
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        request(&context)?;
        // The hall's prompts come with the services that they are about.
        let mut list = ListPromptsResult::with_all_items(Vec::new());
        list.ttl_ms = Some(LIST_TTL_MS);
        list.cache_scope = Some(CacheScope::Private);
        Ok(list)
    }

    async fn complete(
        &self,
        params: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let Request { call, .. } = request(&context)?;
        let completion = match &params.r#ref {
            Reference::Resource(template) => {
                resources::complete(&self.hall, &call, &template.uri, &params.argument).await
            }
            Reference::Prompt(prompt) => Err(Error::invalid(format!("there is no prompt {:?}", prompt.name))),
            _ => Err(Error::invalid("only arguments of resource templates and prompts are completed")),
        };
        completion.map(CompleteResult::new).map_err(|error| rpc_error(&error))
    }

    async fn list_resources(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let Request { call, .. } = request(&context)?;
        let cursor = page.and_then(|page| page.cursor);
        let (resources, next) = resources::list(&self.hall, &call, cursor).await.map_err(|error| rpc_error(&error))?;
        let mut list = ListResourcesResult::with_all_items(resources);
        list.next_cursor = next;
        // Agents come and go: this list is true only now.
        list.ttl_ms = Some(0);
        list.cache_scope = Some(CacheScope::Private);
        Ok(list)
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        request(&context)?;
        let mut list = ListResourceTemplatesResult::with_all_items(resources::templates());
        list.ttl_ms = Some(LIST_TTL_MS);
        list.cache_scope = Some(CacheScope::Private);
        Ok(list)
    }

    async fn read_resource(
        &self,
        params: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let Request { call, .. } = request(&context)?;
        let contents = resources::read(&self.hall, &call, &params.uri).await.map_err(|error| {
            let mut told = rpc_error(&error);
            if let Some(Value::Object(data)) = &mut told.data {
                data.insert("uri".to_owned(), Value::from(params.uri.as_str()));
            }
            told
        })?;
        let mut result = ReadResourceResult::new(vec![contents]);
        result.ttl_ms = Some(0);
        result.cache_scope = Some(CacheScope::Private);
        Ok(result.into())
    }

    async fn subscribe(
        &self,
        params: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let Request { caller, call, parts } = request(&context)?;
        let Some(session) = session_id(&parts.headers) else {
            return Err(rpc_error(&Error::invalid("subscribing needs a session: begin with initialize")));
        };
        self.watched.add(&caller.principal, session, params.uri).await.map_err(|error| rpc_error(&error))?;
        self.hall.tell_gateways(&call, subject::SESSION_WATCHES, session).await;
        Ok(())
    }

    async fn unsubscribe(
        &self,
        params: UnsubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let Request { call, parts, .. } = request(&context)?;
        if let Some(session) = session_id(&parts.headers) {
            self.watched.remove(session, &params.uri).await;
            self.hall.tell_gateways(&call, subject::SESSION_WATCHES, session).await;
        }
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        let mut accepted = SubscriptionFilter::default();
        accepted.resource_subscriptions = requested
            .resource_subscriptions
            .as_ref()
            .map(|uris| uris.iter().filter(|uri| resources::Address::parse(uri).is_ok()).cloned().collect());
        Some(accepted)
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let Request { caller, .. } = request(context.request_context())?;
        super::watch::listen(&self.hall, &caller, &context).await;
        Ok(())
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        // 2024-11-05 is spoken over HTTP+SSE, which is another door.
        const SPOKEN: &[ProtocolVersion] = &[
            ProtocolVersion::V_2025_03_26,
            ProtocolVersion::V_2025_06_18,
            ProtocolVersion::V_2025_11_25,
            ProtocolVersion::V_2026_07_28,
        ];
        Cow::Borrowed(SPOKEN)
    }
}
