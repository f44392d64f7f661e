//! The hall's own tools. A service that comes hangs its tools here: a [`Tool`] says what it is called, what it takes
//! and gives, who may call it and what runs, and is then reachable over MCP and at `/tools/{name}` alike.

mod agents;
mod dead_letters;
mod events;
mod mail;
pub(crate) mod requests;
mod schema;

pub(crate) use self::{
    agents::{Peer, peers},
    mail::WHOSE_WORDS,
};

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use guildhall_domain::{AuditEntry, Call, Error, ErrorCode, Principal, Result, audit::Outcome, mail::Request};
use guildhall_guard::{
    Operation,
    policy::{Policy, ToolFacts},
};
use rmcp::model::ToolAnnotations;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest as _, Sha256};

use crate::{
    hall::Hall,
    handover::Handover,
    requests::Listener,
    rest::{Weight, authorize, body::fitting},
};

type Run = Arc<dyn for<'a> Fn(&'a Ask<'a>, &'a RawValue) -> BoxFuture<'a, Result<Box<RawValue>>> + Send + Sync>;

/// One call of a tool, beside its arguments.
pub(crate) struct Ask<'c> {
    pub(crate) hall: &'c Hall,
    pub(crate) call: &'c Call,
    /// Takes the mail that the tool's result hands over.
    pub(crate) handover: &'c Handover,
    /// Hears how far a tool that takes long has come.
    pub(crate) listener: Option<&'c dyn Listener>,
    /// What goes on after the tool has answered.
    begun: OnceLock<Request>,
}

impl<'c> Ask<'c> {
    pub(crate) fn new(hall: &'c Hall, call: &'c Call, handover: &'c Handover) -> Self {
        Self { hall, call, handover, listener: None, begun: OnceLock::new() }
    }

    /// A tool's answer says that this goes on.
    fn begins(&self, request: Request) {
        // One tool begins one thing.
        let _ = self.begun.set(request);
    }

    /// What the tool has begun.
    pub(crate) fn begun(self) -> Option<Request> {
        self.begun.into_inner()
    }
}

pub(crate) struct Tool {
    /// As MCP shows it; made once, shared by every list.
    pub(crate) shown: rmcp::model::Tool,
    name: &'static str,
    toolset: &'static str,
    operation: Operation,
    effect: Effect,
    advice: Advice,
    time: Duration,
    weight: Weight,
    run: Run,
}

/// What to do about an error that a model can do something about.
type Advice = &'static [(ErrorCode, &'static str)];

/// What a tool does to the world, as its annotations say it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    ReadsOnly,
    /// Changes something, and doing it twice is doing it once.
    Idempotent,
    /// Changes something each time.
    Repeats,
}

impl Tool {
    pub(crate) fn new<A, R, F>(
        name: &'static str,
        toolset: &'static str,
        operation: Operation,
        effect: Effect,
        about: About,
        run: F,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + 'static,
        F: for<'a> Fn(&'a Ask<'a>, A) -> BoxFuture<'a, Result<R>> + Send + Sync + 'static,
    {
        let read_only = effect == Effect::ReadsOnly;
        let annotations = ToolAnnotations::with_title(about.title)
            .read_only(read_only)
            .destructive(false)
            .idempotent(effect != Effect::Repeats)
            .open_world(false);
        let shown = rmcp::model::Tool::new(name, about.description, schema::of_input::<A>())
            .with_title(about.title)
            .with_raw_output_schema(schema::of_output::<R>())
            .with_annotations(annotations);
        let run = Arc::new(run);
        Self {
            shown,
            name,
            toolset,
            operation,
            effect,
            advice: about.advice,
            time: TOOL_TIME,
            weight: Weight::Counts,
            run: Arc::new(move |ask, arguments| {
                let run = run.clone();
                Box::pin(async move {
                    let arguments: A = fitting("what the tool was given", arguments.get().as_bytes())?;
                    as_text(&run(ask, arguments).await?)
                })
            }),
        }
    }

    /// A tool that waits for others has more time than one that only works, whatever its caller's own call has.
    fn within(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// An acknowledgement. A tool that lists counts as any other: a model asks for it, no machinery does.
    fn free(mut self) -> Self {
        self.weight = Weight::Free;
        self
    }

    pub(crate) fn weight(&self) -> Weight {
        self.weight
    }
}

fn as_text(result: &impl Serialize) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(result)
        .map_err(|_| Error::internal("the tool's result cannot be written as JSON; report it"))
}

pub(crate) struct About {
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) advice: Advice,
}

/// Every tool of the hall, in the order of names: lists are always in this order.
pub(crate) struct ToolRouter {
    tools: BTreeMap<&'static str, Arc<Tool>>,
}

/// A tool's time, unless it says otherwise.
const TOOL_TIME: Duration = Duration::from_secs(30);

impl ToolRouter {
    pub(crate) fn of_the_hall() -> Self {
        let all = [agents::tools(), mail::tools(), requests::tools(), events::tools(), dead_letters::tools()];
        Self { tools: all.into_iter().flatten().map(|tool| (tool.name, Arc::new(tool))).collect() }
    }

    /// The tool as the hall knows it, whoever asks.
    pub(crate) fn known(&self, name: &str) -> Option<&Arc<Tool>> {
        self.tools.get(name)
    }

    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tools.keys().copied()
    }

    /// A tool that the caller may not call looks like one that is not there.
    pub(crate) fn find(
        &self,
        name: &str,
        policy: &Policy,
        caller: &Principal,
        narrowed: &Narrowed,
    ) -> Option<&Arc<Tool>> {
        self.tools.get(name).filter(|tool| tool.visible(policy, caller, narrowed))
    }

    pub(crate) fn visible<'a>(
        &'a self,
        policy: &'a Policy,
        caller: &'a Principal,
        narrowed: &'a Narrowed,
    ) -> impl Iterator<Item = &'a Arc<Tool>> {
        self.tools.values().filter(|tool| tool.visible(policy, caller, narrowed))
    }
}

impl Tool {
    fn advise(&self, error: Error) -> Error {
        match self.advice.iter().find(|(code, _)| *code == error.code) {
            Some((_, advice)) if error.guidance.is_none() => error.with_guidance(*advice),
            _ => error,
        }
    }

    fn visible(&self, policy: &Policy, caller: &Principal, narrowed: &Narrowed) -> bool {
        let facts = ToolFacts { name: self.name, read_only: self.effect == Effect::ReadsOnly, toolset: self.toolset };
        narrowed.allows(self.toolset)
            && policy.may_call_tool(caller, &facts)
            && authorize(policy, caller, self.operation, None, None).is_ok()
    }
}

/// Runs a tool that [`ToolRouter::find`] gave, within its time, and puts the call on record. Arguments and result
/// travel as text: what one agent writes to another must arrive as it was written.
pub(crate) async fn call(ask: &Ask<'_>, tool: &Tool, arguments: &RawValue) -> Result<Box<RawValue>> {
    let Ask { hall, call, .. } = ask;
    let given = Sha256::digest(arguments.get());
    let result = tokio::time::timeout(tool.time, (tool.run)(ask, arguments))
        .await
        .unwrap_or_else(|_| Err(Error::timeout(format!("{} did not finish within {:?}", tool.name, tool.time))));
    let result = result.map_err(|error| tool.advise(error));
    // Arguments may hold anything; their hash proves later what they were to whoever still has them.
    let mut entry = AuditEntry::done(
        &call.principal,
        hall.clock.now(),
        "tool.call",
        format!("tool:{}", tool.name),
        json!({"arguments_sha256": hex::encode(given)}),
    );
    let outcome = match &result {
        Ok(_) => "ok",
        Err(error) => {
            entry.outcome = Outcome::Failed;
            entry.body["error"] = Value::from(error.code.as_str());
            error.code.as_str()
        }
    };
    hall.recorder.record(entry);
    metrics::counter!("guildhall_tool_calls_total", "tool" => tool.name, "outcome" => outcome).increment(1);
    result
}

/// The toolsets that the address asks for, `?toolsets=a,b`; none: all.
#[derive(Debug, Default)]
pub(crate) struct Narrowed(Option<Vec<String>>);

impl Narrowed {
    pub(crate) fn by(query: Option<&str>) -> Self {
        let asked = query.and_then(|query| {
            url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "toolsets").map(|(_, value)| {
                value.split(',').map(|word| word.trim().to_owned()).filter(|w| !w.is_empty()).collect()
            })
        });
        Self(asked)
    }

    fn allows(&self, toolset: &str) -> bool {
        self.0.as_ref().is_none_or(|asked| asked.iter().any(|word| word == toolset))
    }
}
