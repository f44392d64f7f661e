//! What travels with every call through every port: who asks, until when, and as part of which trace.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{Error, Principal, Result};

/// Used where a caller set no deadline: nothing waits for ever.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// W3C trace context of the span that a call is part of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// Empty when nothing is traced.
    pub traceparent: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tracestate: String,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub principal: Arc<Principal>,
    pub deadline: Instant,
    pub trace: TraceContext,
}

impl Call {
    pub fn new(principal: impl Into<Arc<Principal>>) -> Self {
        Self::within(principal, DEFAULT_DEADLINE)
    }

    pub fn within(principal: impl Into<Arc<Principal>>, time: Duration) -> Self {
        Self { principal: principal.into(), deadline: Instant::now() + time, trace: TraceContext::default() }
    }

    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = trace;
        self
    }

    /// What is left until the deadline, or `Timeout`.
    pub fn remaining(&self) -> Result<Duration> {
        self.deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or_else(|| Error::timeout("the call's deadline has passed; repeat it with a longer one"))
    }
}
