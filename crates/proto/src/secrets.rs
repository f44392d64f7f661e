//! `Debug` for messages that hold a secret: everything else shown, the secret not.

use std::fmt;

use crate::agent_registry::v1::{
    CreateRegistrationKeyResponse, IssuedToken, RegisterRequest, RegisterResponse, WebhookSecretResponse,
};

const HIDDEN: &str = "[hidden]";

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, token_id, expires_at_ms } = self;
        f.debug_struct("IssuedToken")
            .field("token", &HIDDEN)
            .field("token_id", token_id)
            .field("expires_at_ms", expires_at_ms)
            .finish()
    }
}

impl fmt::Debug for RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent, registration_key } = self;
        f.debug_struct("RegisterRequest")
            .field("agent", agent)
            .field("registration_key", &registration_key.as_ref().map(|_| HIDDEN))
            .finish()
    }
}

impl fmt::Debug for RegisterResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent, token, created, webhook_secret } = self;
        f.debug_struct("RegisterResponse")
            .field("agent", agent)
            .field("token", token)
            .field("created", created)
            .field("webhook_secret", &webhook_secret.as_ref().map(|_| HIDDEN))
            .finish()
    }
}

impl fmt::Debug for WebhookSecretResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret: _ } = self;
        f.debug_struct("WebhookSecretResponse").field("secret", &HIDDEN).finish()
    }
}

impl fmt::Debug for CreateRegistrationKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, secret: _ } = self;
        f.debug_struct("CreateRegistrationKeyResponse").field("key", key).field("secret", &HIDDEN).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_when_its_message_is_printed() {
        let token = IssuedToken { token: "hush".into(), token_id: "t1".into(), expires_at_ms: 1 };
        let register = RegisterRequest { agent: None, registration_key: Some("hush".into()) };
        let created = CreateRegistrationKeyResponse { key: None, secret: "hush".into() };
        let registered = RegisterResponse {
            agent: None,
            token: Some(token.clone()),
            created: true,
            webhook_secret: Some("hush".into()),
        };
        let webhook = WebhookSecretResponse { secret: "hush".into() };
        let shown = format!("{token:?} {register:?} {created:?} {registered:?} {webhook:?}");
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("t1"), "{shown}");
    }
}
