//! Secrets at rest: sealed with XChaCha20-Poly1305 under a ring of keys, so that keys can be replaced. And secrets that
//! need no rest: derived from the ring whenever they are needed.
//!
//! A sealed value says which key sealed it, and is bound to its purpose: moved to another row or column it does not
//! open. `version (1 byte) | length of the key's id (1) | id | nonce (24) | ciphertext and tag`.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use guildhall_domain::{Entropy, Error, Result};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretSlice};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Secret;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const ID_MAX_BYTES: usize = 64;
/// Keeps what is derived from a key apart from what it seals.
const DERIVES: &[u8] = b"guildhall derived key v1";

/// The keys that secrets are sealed with. The first seals, all open.
pub struct KeyRing {
    keys: Vec<RingKey>,
}

struct RingKey {
    id: String,
    key: SecretBox<[u8; 32]>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.ids().collect::<Vec<_>>()).finish()
    }
}

impl KeyRing {
    /// From texts of the form `<id>:<32 bytes in base64>`, at least one, each id once.
    pub fn parse<'s>(texts: impl IntoIterator<Item = &'s Secret>) -> Result<Self> {
        let mut keys: Vec<RingKey> = Vec::new();
        for text in texts {
            let key = RingKey::parse(text.expose_secret())?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(Error::invalid(format!("the secrets key {} is there twice: remove one", key.id)));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(Error::invalid("no secrets key: set secrets.keys or secrets.keys_file"));
        }
        Ok(Self { keys })
    }

    /// The text of a new key, as [`Self::parse`] takes it.
    pub fn new_key_text(id: &str, entropy: &dyn Entropy) -> Result<Secret> {
        check_id(id)?;
        let mut key = Zeroizing::new([0_u8; 32]);
        entropy.fill(&mut *key);
        Ok(format!("{id}:{}", *Zeroizing::new(STANDARD.encode(*key))).into())
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.id)
    }

    /// `purpose` names the place where the sealed value will stand, for example `connection:<tenant>:<name>`.
    pub fn seal(&self, purpose: &str, secret: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let key = &self.keys[0];
        let mut nonce = [0_u8; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let mut sealed = header(&key.id);
        let payload = Payload { msg: secret, aad: &bound(&sealed, purpose) };
        let ciphertext = key
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("XChaCha20-Poly1305 seals anything below 256 GiB");
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<SecretSlice<u8>> {
        let (id, rest) = split_header(sealed).ok_or_else(|| damaged(purpose))?;
        let Some(key) = self.keys.iter().find(|key| key.id == id) else {
            return Err(Error::internal(format!(
                "{purpose} is sealed with the secrets key {id:?}, which is not configured: add it back to secrets.keys"
            )));
        };
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES).ok_or_else(|| damaged(purpose))?;
        let payload = Payload { msg: ciphertext, aad: &bound(&header(id), purpose) };
        let opened = key.cipher().decrypt(XNonce::from_slice(nonce), payload).map_err(|_| {
            Error::internal(format!(
                "{purpose} does not open with the secrets key {id:?}: the key under this id is another one than when \
                 it was sealed, or the stored value was changed"
            ))
        })?;
        Ok(opened.into())
    }

    /// Keys of their own for `purpose`, one from each key of the ring in its order: made again whenever they are needed,
    /// and kept nowhere. HKDF with SHA-256, one block.
    pub fn derive(&self, purpose: &str) -> Vec<Zeroizing<[u8; 32]>> {
        let of = |key: &RingKey| hmac(&*hmac(DERIVES, &[key.key.expose_secret()]), &[purpose.as_bytes(), &[1]]);
        self.keys.iter().map(of).collect()
    }
}

pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

impl RingKey {
    fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(
                "a secrets key is <id>:<32 bytes in base64>; `openssl rand -base64 32` makes the second part",
            )
        };
        let (id, encoded) = text.trim().split_once(':').ok_or_else(bad)?;
        check_id(id)?;
        let mut key = SecretBox::<[u8; 32]>::default();
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| bad())?);
        if bytes.len() != key.expose_secret().len() {
            return Err(bad());
        }
        key.expose_secret_mut().copy_from_slice(&bytes);
        Ok(Self { id: id.to_owned(), key })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(self.key.expose_secret()))
    }
}

fn check_id(id: &str) -> Result<()> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if id.is_empty() || id.len() > ID_MAX_BYTES || !plain {
        return Err(Error::invalid("a secrets key's id is 1 to 64 letters, digits, _ - or ., for example 2026-11"));
    }
    Ok(())
}

fn header(id: &str) -> Vec<u8> {
    let length = u8::try_from(id.len()).expect("ids were checked to be at most 64 bytes");
    [&[VERSION, length], id.as_bytes()].concat()
}

fn split_header(sealed: &[u8]) -> Option<(&str, &[u8])> {
    let [VERSION, length, rest @ ..] = sealed else { return None };
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(id).ok()?, rest))
}

/// What the tag covers beside the secret. The header's length is in the header, so nothing can shift into `purpose`.
fn bound(header: &[u8], purpose: &str) -> Vec<u8> {
    [header, purpose.as_bytes()].concat()
}

fn damaged(purpose: &str) -> Error {
    Error::internal(format!("the sealed value of {purpose} is damaged, or of a newer version of the hall"))
}
