//! Words that the hall carries and cannot read: HPKE (RFC 9180) with X25519, HKDF-SHA-256 and ChaCha20-Poly1305.
//!
//! An agent publishes its public key; the private one stays in a file of its machine, beside those before it, so that
//! what was sealed for an older key can still be opened. A sealed message is JSON like any other:
//! `{"sealed": {"form", "key", "enc", "ciphertext"}}`, bytes as base64; `key` names the public key it was sealed for.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use guildhall_domain::{AgentId, PublicKey, agent::OLD_KEYS_MAX};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

type Suite = X25519HkdfSha256;
type PrivateKey = <Suite as Kem>::PrivateKey;

const ALGORITHM: &str = "x25519";
const FORM: &str = "hpke-x25519-sha256-chacha20poly1305";
/// Binds what is sealed to this use of it.
const INFO: &[u8] = b"guildhall message 1";

/// A message's body when it is sealed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) sealed: Sealed,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    form: String,
    key: String,
    enc: String,
    ciphertext: String,
}

/// Short and safe to show: tells keys apart.
fn key_id(public: &[u8]) -> String {
    hex::encode(&Sha256::digest(public)[..8])
}

/// Seals `plain` so that only the holder of the private key reads it. Bound to who it is for.
pub(crate) fn seal(plain: &[u8], to: &AgentId, key: &PublicKey) -> Result<Envelope, Failure> {
    let unfit = || {
        Failure::new(format!(
            "the public key of {to} is no {ALGORITHM} key that words can be sealed for; \
             it can publish one with `guildhall keys new`"
        ))
    };
    if key.algorithm != ALGORITHM {
        return Err(unfit());
    }
    let bytes = BASE64_STANDARD.decode(&key.key).map_err(|_| unfit())?;
    let public = <Suite as Kem>::PublicKey::from_bytes(&bytes).map_err(|_| unfit())?;
    let (enc, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeS::Base,
        &public,
        INFO,
        plain,
        to.as_str().as_bytes(),
    )
    .map_err(|_| unfit())?;
    Ok(Envelope {
        sealed: Sealed {
            form: FORM.to_owned(),
            key: key_id(&bytes),
            enc: BASE64_STANDARD.encode(enc.to_bytes()),
            ciphertext: BASE64_STANDARD.encode(ciphertext),
        },
    })
}

/// The private keys of one agent on this machine, the newest first.
pub(crate) struct KeyFile {
    path: PathBuf,
    keys: Vec<PrivateKey>,
}

impl KeyFile {
    /// `None` names the usual place.
    pub(crate) fn open(path: Option<PathBuf>, agent: &AgentId) -> Result<Self, Failure> {
        let path = path.map_or_else(|| usual_path(agent), Ok)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::new(format!("{} cannot be read: {error}", path.display()))),
        };
        let damaged = |line: usize| {
            Failure::new(format!("line {line} of {} is no private key; mend or remove the line", path.display()))
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let keys = lines.map(|(at, line)| {
            let bytes = BASE64_STANDARD.decode(line.trim()).map_err(|_| damaged(at + 1))?;
            PrivateKey::from_bytes(&bytes).map_err(|_| damaged(at + 1))
        });
        let keys = keys.collect::<Result<_, _>>()?;
        Ok(Self { path, keys })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a new pair and keeps the private half before the older ones. Written whole or not at all, and readable by
    /// its owner alone: a key that was published and then lost could open nothing.
    pub(crate) fn add(&mut self) -> Result<PublicKey, Failure> {
        let (private, public) = Suite::gen_keypair();
        self.keys.insert(0, private);
        self.keys.truncate(OLD_KEYS_MAX + 1);
        self.write().map_err(|error| Failure::new(format!("{} cannot be written: {error}", self.path.display())))?;
        Ok(PublicKey { algorithm: ALGORITHM.to_owned(), key: BASE64_STANDARD.encode(public.to_bytes()) })
    }

    /// The public half of the newest key.
    pub(crate) fn newest(&self) -> Option<PublicKey> {
        let public = Suite::sk_to_pk(self.keys.first()?);
        Some(PublicKey { algorithm: ALGORITHM.to_owned(), key: BASE64_STANDARD.encode(public.to_bytes()) })
    }

    fn write(&self) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        for key in &self.keys {
            writeln!(file, "{}", BASE64_STANDARD.encode(key.to_bytes()))?;
        }
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }

    /// What was sealed for `reader` with any of these keys.
    pub(crate) fn unseal(&self, sealed: &Sealed, reader: &AgentId) -> Result<Vec<u8>, Failure> {
        if sealed.form != FORM {
            return Err(Failure::new(format!("it is sealed as {:?}, which this program cannot open", sealed.form)));
        }
        let named = |key: &&PrivateKey| key_id(&Suite::sk_to_pk(key).to_bytes()) == sealed.key;
        let Some(key) = self.keys.iter().find(named) else {
            return Err(Failure::new(format!(
                "it is sealed for the key {}, which {} does not hold; name the file that does with --key-file, or ask \
                 for it again, sealed for the key that is published now",
                sealed.key,
                self.path.display()
            )));
        };
        let altered = || Failure::new("it was altered on the way, or sealed for another reader");
        let enc = BASE64_STANDARD.decode(&sealed.enc).map_err(|_| altered())?;
        let enc = <Suite as Kem>::EncappedKey::from_bytes(&enc).map_err(|_| altered())?;
        let ciphertext = BASE64_STANDARD.decode(&sealed.ciphertext).map_err(|_| altered())?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeR::Base,
            key,
            &enc,
            INFO,
            &ciphertext,
            reader.as_str().as_bytes(),
        )
        .map_err(|_| altered())
    }
}

fn usual_path(agent: &AgentId) -> Result<PathBuf, Failure> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    let data =
        data.ok_or_else(|| Failure::new("there is no home folder for private keys; name a file with --key-file"))?;
    // Not "keys": a hall whose data is there keeps its own under that name.
    Ok(data.join("guildhall/agent-keys").join(agent.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: &str) -> AgentId {
        id.parse().unwrap()
    }

    #[test]
    fn only_the_reader_it_was_sealed_for_opens_it_and_only_unaltered() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = KeyFile::open(Some(folder.path().join("keys")), &agent("bob")).unwrap();
        let public = keys.add().unwrap();
        let Envelope { sealed } = seal(b"hello", &agent("bob"), &public).unwrap();
        assert_eq!(keys.unseal(&sealed, &agent("bob")).unwrap(), b"hello");
        assert!(keys.unseal(&sealed, &agent("eve")).is_err());

        let mut cut = BASE64_STANDARD.decode(&sealed.ciphertext).unwrap();
        cut[0] ^= 1;
        let altered = Sealed { ciphertext: BASE64_STANDARD.encode(cut), ..sealed };
        assert!(keys.unseal(&altered, &agent("bob")).is_err());
    }

    #[test]
    fn what_was_sealed_for_an_older_key_is_still_opened_after_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/keys");
        let mut keys = KeyFile::open(Some(path.clone()), &agent("bob")).unwrap();
        let older = keys.add().unwrap();
        let Envelope { sealed } = seal(b"old words", &agent("bob"), &older).unwrap();
        let newer = keys.add().unwrap();
        assert_ne!(older, newer);

        let read_again = KeyFile::open(Some(path), &agent("bob")).unwrap();
        assert_eq!(read_again.newest(), Some(newer));
        assert_eq!(read_again.unseal(&sealed, &agent("bob")).unwrap(), b"old words");
    }

    #[cfg(unix)]
    #[test]
    fn private_keys_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        KeyFile::open(Some(path.clone()), &agent("bob")).unwrap().add().unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_of_another_kind_is_refused_with_what_to_do() {
        let other = PublicKey { algorithm: "rsa".into(), key: "AAAA".into() };
        let failure = seal(b"x", &agent("bob"), &other).unwrap_err();
        assert!(failure.message().contains("keys new"), "{failure:?}");
    }
}
