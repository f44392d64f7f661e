//! The hall's own tokens: EdDSA JWTs, made by agent-registry and judged by every gateway on its own.
//!
//! Judging needs an [`AccessView`] and no one else. It costs one Ed25519 verification and two small JSON parses, about
//! 90 µs of CPU in a release build; the gateway therefore keeps what it has judged, until the view's version changes
//! or the token expires.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::pkcs8::EncodePrivateKey;
use guildhall_domain::{
    AccessView, AgentId, Clock, Entropy, Error, IssuedToken, Principal, PrincipalKind, Result, SigningKey, TenantId,
    Timestamp, TokenRequest,
    clock::new_ulid,
    ports::agent_store::{PrivateKey, SealedSigningKey},
    principal::roles,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::seal::KeyRing;

/// Who the hall's own tokens say they are from.
pub const ISSUER: &str = "guildhall";
/// Longer than any token the hall makes; a longer text is not looked at.
const TOKEN_MAX_BYTES: usize = 16 * 1024;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    tenant: TenantId,
    kind: PrincipalKind,
    roles: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    toolsets: Option<BTreeSet<String>>,
    jti: String,
    /// Seconds since 1970, as every JWT.
    iat: i64,
    exp: i64,
    /// The agent's token epoch; 0 for persons and services.
    epoch: u32,
}

/// A signing key with both halves.
pub struct SigningPair {
    public: SigningKey,
    private: PrivateKey,
    encoding: EncodingKey,
}

impl std::fmt::Debug for SigningPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningPair").field("key_id", &self.public.key_id).finish_non_exhaustive()
    }
}

impl SigningPair {
    pub fn generate(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
        let private = PrivateKey::init_with_mut(|seed: &mut [u8; 32]| entropy.fill(seed));
        Self::from_private(private, clock.now(), None)
    }

    /// The pair as the database keeps it.
    pub fn seal(&self, ring: &KeyRing, entropy: &dyn Entropy) -> SealedSigningKey {
        use secrecy::ExposeSecret;
        let sealed_private = ring.seal(&purpose(&self.public.key_id), self.private.expose_secret(), entropy);
        SealedSigningKey { public: self.public.clone(), sealed_private }
    }

    pub fn open(ring: &KeyRing, sealed: &SealedSigningKey) -> Result<Self> {
        use secrecy::{ExposeSecret, ExposeSecretMut};
        let public = &sealed.public;
        let seed = ring.open(&purpose(&public.key_id), &sealed.sealed_private)?;
        let mut private = PrivateKey::default();
        if seed.expose_secret().len() == 32 {
            private.expose_secret_mut().copy_from_slice(seed.expose_secret());
        }
        let pair = Self::from_private(private, public.created_at, public.retires_at);
        if pair.public != *public {
            return Err(Error::internal(format!(
                "the private half of signing key {} does not fit its public half: the database was changed by hand; \
                 rotate the signing key",
                public.key_id
            )));
        }
        Ok(pair)
    }

    pub fn public(&self) -> &SigningKey {
        &self.public
    }

    fn from_private(private: PrivateKey, created_at: Timestamp, retires_at: Option<Timestamp>) -> Self {
        use secrecy::ExposeSecret;
        let key = ed25519_dalek::SigningKey::from_bytes(private.expose_secret());
        let public = key.verifying_key().to_bytes();
        let der = key.to_pkcs8_der().expect("an Ed25519 key always has a DER form");
        let encoding = EncodingKey::from_ed_der(der.as_bytes());
        Self { public: SigningKey { key_id: thumbprint(&public), public, created_at, retires_at }, private, encoding }
    }
}

fn purpose(key_id: &str) -> String {
    format!("signing-key:{key_id}")
}

/// Makes a token. `epoch`: the agent's, 0 for others; `default_ttl`: for a request that names none.
///
/// Whether the caller may grant the roles is `Policy::may_grant`'s to say, before.
pub fn mint(
    pair: &SigningPair,
    request: &TokenRequest,
    epoch: u32,
    default_ttl: Duration,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<IssuedToken> {
    check(request)?;
    let issued_at = clock.now().as_millis().div_euclid(1000);
    let ttl = request.ttl.unwrap_or(default_ttl);
    let ttl_seconds = i64::try_from(ttl.as_secs()).ok().filter(|seconds| (1..=TTL_MAX_SECONDS).contains(seconds));
    let Some(ttl_seconds) = ttl_seconds else {
        return Err(Error::invalid("a token lives from one second to ten years: give a ttl between, such as 24h"));
    };
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: request.id.clone(),
        tenant: request.tenant.clone(),
        kind: request.kind,
        roles: request.roles.clone(),
        toolsets: request.toolsets.clone(),
        jti: new_ulid(clock, entropy).to_string(),
        iat: issued_at,
        exp: issued_at + ttl_seconds,
        epoch,
    };
    let header = Header { kid: Some(pair.public.key_id.clone()), ..Header::new(Algorithm::EdDSA) };
    let token = jsonwebtoken::encode(&header, &claims, &pair.encoding)
        .map_err(|_| Error::internal("a token could not be signed: the signing key is damaged; rotate it"))?;
    if token.len() > TOKEN_MAX_BYTES {
        return Err(Error::invalid("the token would be longer than 16 KiB: grant fewer roles or toolsets"));
    }
    Ok(IssuedToken { token: token.into(), token_id: claims.jti, expires_at: Timestamp::from_millis(claims.exp * 1000) })
}

/// Longer than anyone keeps a hall's signing key, and far from where times overflow.
const TTL_MAX_SECONDS: i64 = 10 * 366 * 24 * 60 * 60;

fn check(request: &TokenRequest) -> Result<()> {
    if request.roles.contains(roles::HALL) {
        return Err(Error::invalid("the role hall belongs to the hall's own services and is never granted"));
    }
    match request.kind {
        PrincipalKind::Agent => AgentId::new(&request.id)?.check_free(),
        PrincipalKind::Person | PrincipalKind::Service => {
            let id = &request.id;
            if id.is_empty() || id.len() > 256 || id.chars().any(char::is_control) {
                return Err(Error::invalid(
                    "a person's or service's name is 1 to 256 bytes without control characters",
                ));
            }
            Ok(())
        }
    }
}

/// A caller whose token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub principal: Principal,
    pub token_id: String,
    /// When it ends by itself: by its own word, or with the key that signed it.
    pub expires_at: Timestamp,
    pub epoch: u32,
}

/// Why a token is not taken. Becomes an [`Error`] with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not a JWT, or not one as the hall makes them.
    Malformed,
    /// No key of the view has its id. A newer view may: worth one look before refusing.
    UnknownKey,
    NotOurs,
    Expired,
    Revoked,
    /// The token is good, its agent is not let in; with the administrator's reason.
    Paused(Arc<str>),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => Error::unauthenticated(
                "the bearer token is not one that this hall makes: send the token from registration or \
                 `guildhall token issue` as it was given",
            ),
            Refusal::UnknownKey | Refusal::NotOurs => Error::unauthenticated(
                "the token is not signed by this hall, or by a key that has retired: register again or have a new one issued",
            ),
            Refusal::Expired => {
                Error::unauthenticated("the token has expired: register again or have a new one issued")
            }
            Refusal::Revoked => {
                Error::unauthenticated("the token has been revoked: have a new one issued by an administrator")
            }
            Refusal::Paused(reason) => Error::denied(format!(
                "an administrator paused this agent: {reason}. Nothing is answered until it is resumed"
            )),
        }
    }
}

/// Judges a token. Everything is checked against `view` and `now`; nobody is asked and no clock read.
///
/// There is no leeway on expiry. The hall signs and judges by clocks of its own, no token says "not before", so the
/// only effect of clocks apart is an expiry that much early or late; a leeway would only lengthen what was granted.
pub fn verify(token: &str, view: &AccessView, now: Timestamp) -> Result<Verified, Refusal> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(Refusal::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Malformed)?;
    if header.alg != Algorithm::EdDSA {
        return Err(Refusal::NotOurs);
    }
    let key_id = header.kid.ok_or(Refusal::NotOurs)?;
    let key = view.keys.iter().find(|key| key.key_id == key_id).ok_or(Refusal::UnknownKey)?;
    if !is_good(key, now) {
        return Err(Refusal::NotOurs);
    }
    let claims: Claims = jsonwebtoken::decode(token, &DecodingKey::from_ed_der(&key.public), &VALIDATION)
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => Refusal::NotOurs,
            _ => Refusal::Malformed,
        })?
        .claims;
    let expires_at = Timestamp::from_millis(claims.exp.saturating_mul(1000));
    if now >= expires_at {
        return Err(Refusal::Expired);
    }
    if view.revoked.contains(&claims.jti) {
        return Err(Refusal::Revoked);
    }
    if claims.roles.contains(roles::HALL) {
        return Err(Refusal::Malformed);
    }
    if claims.kind == PrincipalKind::Agent {
        let agent = AgentId::new(&claims.sub).map_err(|_| Refusal::Malformed)?;
        let agent = (claims.tenant.clone(), agent);
        if view.epochs.get(&agent).is_some_and(|first_good| claims.epoch < *first_good) {
            return Err(Refusal::Revoked);
        }
        if let Some(reason) = view.paused.get(&agent) {
            return Err(Refusal::Paused(reason.clone()));
        }
    }
    let expires_at = key.retires_at.map_or(expires_at, |retires_at| retires_at.min(expires_at));
    let principal = Principal {
        tenant: claims.tenant,
        kind: claims.kind,
        id: claims.sub.into(),
        roles: Arc::new(claims.roles),
        toolsets: claims.toolsets.map(Arc::new),
    };
    Ok(Verified { principal, token_id: claims.jti, expires_at, epoch: claims.epoch })
}

/// jsonwebtoken would read the system's clock: expiry is compared above instead. Required claims are fields of
/// [`Claims`] that have no default.
static VALIDATION: LazyLock<Validation> = LazyLock::new(|| {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.set_issuer(&[ISSUER]);
    validation
});

fn is_good(key: &SigningKey, now: Timestamp) -> bool {
    key.retires_at.is_none_or(|retires_at| now < retires_at)
}

/// `/.well-known/jwks.json`: the keys whose tokens are good at `now`.
pub fn jwks(view: &AccessView, now: Timestamp) -> Value {
    let keys = view.keys.iter().filter(|key| is_good(key, now)).map(|key| {
        json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": key.key_id, "x": URL_SAFE_NO_PAD.encode(key.public),
        })
    });
    json!({ "keys": keys.collect::<Vec<_>>() })
}

/// A key's id is its JWK thumbprint (RFC 7638): whoever has the key can tell its name.
fn thumbprint(public: &[u8; 32]) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(public));
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}
