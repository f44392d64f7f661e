//! The [`Call`] on the wire: the deadline as `grpc-timeout`, the principal as binary metadata, the trace as W3C headers.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{Call, Error, Principal, PrincipalKind, Result, TenantId, TraceContext, call::DEFAULT_DEADLINE};
use guildhall_proto::call::v1 as wire;
use http::HeaderMap;
use prost::Message;
use tonic::{Request, metadata::MetadataValue};

const PRINCIPAL: &str = "x-guildhall-principal-bin";
const TIMEOUT: &str = "grpc-timeout";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The message with the call around it; `Timeout` when no time is left to send it.
pub fn outgoing<T>(call: &Call, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.set_timeout(call.remaining()?);
    let principal = wire_principal(&call.principal).encode_to_vec();
    let metadata = request.metadata_mut();
    metadata.insert_bin(PRINCIPAL, MetadataValue::from_bytes(&principal));
    write_trace(metadata.as_mut(), &call.trace);
    Ok(request)
}

/// Who asks, until when and in which trace, as [`outgoing`] put it on the other side.
pub fn incoming<T>(request: &Request<T>) -> Result<Call> {
    let metadata = request.metadata();
    let principal = metadata
        .get_bin(PRINCIPAL)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| wire::Principal::decode(bytes).ok())
        .ok_or_else(|| {
            Error::unauthenticated("the call does not say who makes it: only services of the hall may call here")
        })?;
    Ok(Call {
        principal: Arc::new(domain_principal(principal)?),
        deadline: request.extensions().get().map_or_else(|| deadline(metadata.as_ref()), |Deadline(at)| *at),
        trace: read_trace(metadata.as_ref()),
    })
}

/// Until when the server answers; set once, where the call comes in.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);

/// When a request has to be answered: now and its `grpc-timeout`, or the default for one that set none.
pub(crate) fn deadline(headers: &HeaderMap) -> Instant {
    let now = Instant::now();
    let time = headers.get(TIMEOUT).and_then(|value| parse_timeout(value.to_str().ok()?)).unwrap_or(DEFAULT_DEADLINE);
    now.checked_add(time).unwrap_or(now + DEFAULT_DEADLINE)
}

/// At most eight digits and a unit, as the gRPC protocol has it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

pub(crate) fn read_trace(headers: &HeaderMap) -> TraceContext {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let traceparent = text(TRACEPARENT);
    let tracestate = if traceparent.is_empty() { String::new() } else { text(TRACESTATE) };
    TraceContext { traceparent, tracestate }
}

/// Replaces whatever trace the headers hold. One that cannot be a header is left out: a trace never fails a call.
pub(crate) fn write_trace(headers: &mut HeaderMap, trace: &TraceContext) {
    for (name, value) in [(TRACEPARENT, &trace.traceparent), (TRACESTATE, &trace.tracestate)] {
        headers.remove(name);
        if let (false, Ok(value)) = (value.is_empty(), value.parse()) {
            headers.insert(name, value);
        }
    }
}

fn wire_principal(principal: &Principal) -> wire::Principal {
    let kind = match principal.kind {
        PrincipalKind::Agent => wire::PrincipalKind::Agent,
        PrincipalKind::Person => wire::PrincipalKind::Person,
        PrincipalKind::Service => wire::PrincipalKind::Service,
    };
    wire::Principal {
        tenant: principal.tenant.to_string(),
        kind: kind.into(),
        id: principal.id.to_string(),
        roles: principal.roles.iter().cloned().collect(),
        toolsets: principal.toolsets.as_ref().map(|names| wire::Toolsets { names: names.iter().cloned().collect() }),
    }
}

fn domain_principal(wire: wire::Principal) -> Result<Principal> {
    let kind = match wire.kind() {
        wire::PrincipalKind::Agent => PrincipalKind::Agent,
        wire::PrincipalKind::Person => PrincipalKind::Person,
        wire::PrincipalKind::Service => PrincipalKind::Service,
        wire::PrincipalKind::Unspecified => {
            return Err(Error::unauthenticated("the caller's kind is unknown here: run one version of every service"));
        }
    };
    let toolsets = wire.toolsets.map(|sets| Arc::new(sets.names.into_iter().collect::<BTreeSet<_>>()));
    Ok(Principal { toolsets, ..Principal::new(TenantId::new(wire.tenant)?, kind, wire.id, wire.roles) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_and_the_trace_arrive_as_they_were_sent() {
        let mut principal =
            Principal::new(TenantId::new("acme").unwrap(), PrincipalKind::Person, "Zoë", ["admin", "x:y"]);
        for toolsets in [None, Some(vec![]), Some(vec!["mail".to_owned()])] {
            principal.toolsets = toolsets.map(|names| Arc::new(names.into_iter().collect()));
            let trace = TraceContext {
                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
                tracestate: "a=1,b=2".into(),
            };
            let call = Call::within(principal.clone(), Duration::from_secs(7)).with_trace(trace);
            let arrived = incoming(&outgoing(&call, ()).unwrap()).unwrap();
            assert_eq!(*arrived.principal, principal);
            assert_eq!(arrived.trace, call.trace);
            let drift = arrived.deadline.max(call.deadline) - arrived.deadline.min(call.deadline);
            assert!(drift < Duration::from_secs(1), "{drift:?}");
        }
    }

    #[test]
    fn an_empty_trace_sends_no_headers() {
        let call = Call::new(Principal::hall(TenantId::default(), "test"));
        let request = outgoing(&call, ()).unwrap();
        assert!(request.metadata().get(TRACEPARENT).is_none() && request.metadata().get(TRACESTATE).is_none());
    }

    #[test]
    fn a_call_whose_time_is_up_is_not_sent() {
        let call = Call::within(Principal::hall(TenantId::default(), "test"), Duration::ZERO);
        assert_eq!(outgoing(&call, ()).unwrap_err().code, guildhall_domain::ErrorCode::Timeout);
    }

    #[test]
    fn a_call_without_a_principal_is_refused() {
        let refused = incoming(&Request::new(())).unwrap_err();
        assert_eq!(refused.code, guildhall_domain::ErrorCode::AuthenticationError);
    }

    #[test]
    fn time_outs_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for odd in ["", "S", "123456789S", "-1S", "1s", "ä", "1 S", "+1S"] {
            assert_eq!(parse_timeout(odd), None, "{odd:?}");
        }
    }
}
