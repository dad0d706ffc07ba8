//! Secrets that workers need, sealed in the database: ChaCha20-Poly1305 under the key of OSTLER_KEY, bound to the Secret's
//! name, so that neither whoever reads the database nor whoever moves rows in it gains anything.

use std::collections::BTreeMap;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rand::RngCore;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::{Value, json};

use super::DeclaredRow;

/// The kind under which sealed Secrets are projected.
pub const KIND: &str = "Secret";
const FIELD: &str = "sealed";
const KEY_BYTES: usize = 32;

type Data = BTreeMap<String, Vec<u8>>;

/// The installation's key. Its `Debug` tells nothing.
#[derive(Clone)]
pub struct Key(LessSafeKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Why something can't be sealed or opened. Never repeats a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("OSTLER_KEY is no key: write the base64 of 32 random bytes, as `openssl rand -base64 32` does")]
    Key,
    #[error(
        "it was sealed with another OSTLER_KEY, or changed: give the same key to the controller and to the workers"
    )]
    Open,
}

impl Key {
    /// Reads the base64 of 32 bytes; white space around it is allowed.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| SealError::Key)?;
        Self::new(&bytes)
    }

    fn new(bytes: &[u8]) -> Result<Self, SealError> {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, bytes).map_err(|_| SealError::Key)?;
        Ok(Self(LessSafeKey::new(unbound)))
    }

    /// The text of a new key, as `parse` reads it.
    pub fn generate() -> String {
        let mut bytes = [0; KEY_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        STANDARD.encode(bytes)
    }

    /// Seals a text for one purpose, in characters that a cookie takes.
    pub fn seal_text(&self, purpose: &str, text: &str) -> Result<String, SealError> {
        Ok(URL_SAFE_NO_PAD.encode(self.sealed(Aad::from(purpose.as_bytes().to_vec()), text.as_bytes().to_vec())?))
    }

    /// Opens what [`Self::seal_text`] sealed for the same purpose.
    pub fn open_text(&self, purpose: &str, sealed: &str) -> Result<String, SealError> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SealError::Open)?;
        let plain = self.opened(Aad::from(purpose.as_bytes().to_vec()), &bytes)?;
        String::from_utf8(plain).map_err(|_| SealError::Open)
    }

    fn sealed(&self, bound_to: Aad<Vec<u8>>, mut plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to, &mut plain)
            .map_err(|_| SealError::Key)?;
        Ok([nonce.as_slice(), &plain].concat())
    }

    fn opened(&self, bound_to: Aad<Vec<u8>>, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Open)?;
        let mut sealed = sealed.to_vec();
        let plain = self.0.open_in_place(nonce, bound_to, &mut sealed).map_err(|_| SealError::Open)?;
        Ok(plain.to_vec())
    }
}

/// By which a Secret's row is known.
pub fn uid(namespace: &str, name: &str) -> String {
    format!("{KIND}/{namespace}/{name}")
}

/// The row that projects a Secret. One that exists and says the same is kept as it is, so that nothing is written.
pub fn seal(
    key: &Key,
    namespace: &str,
    name: &str,
    data: &Data,
    existing: Option<&DeclaredRow>,
) -> Result<DeclaredRow, SealError> {
    if let Some(row) = existing.filter(|row| open(key, row).as_ref() == Ok(data)) {
        return Ok(row.clone());
    }
    let plain: BTreeMap<&str, String> =
        data.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value))).collect();
    let text = STANDARD.encode(key.sealed(bound_to(namespace, name), json!(plain).to_string().into_bytes())?);
    Ok(DeclaredRow {
        uid: uid(namespace, name),
        kind: KIND.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        generation: 1,
        labels: BTreeMap::new(),
        spec: json!({FIELD: text}),
        suspended: false,
        held: None,
    })
}

/// The data of a projected Secret.
pub fn open(key: &Key, row: &DeclaredRow) -> Result<Data, SealError> {
    let text = row.spec.get(FIELD).and_then(Value::as_str).ok_or(SealError::Open)?;
    let bytes = STANDARD.decode(text).map_err(|_| SealError::Open)?;
    let plain = key.opened(bound_to(&row.namespace, &row.name), &bytes)?;
    let encoded: BTreeMap<String, String> = serde_json::from_slice(&plain).map_err(|_| SealError::Open)?;
    let decode = |(key, value): (String, String)| Some((key, STANDARD.decode(value).ok()?));
    encoded.into_iter().map(decode).collect::<Option<Data>>().ok_or(SealError::Open)
}

fn bound_to(namespace: &str, name: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("ostler secret\0{namespace}\0{name}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Data {
        [("token".to_owned(), b"hunter2".to_vec()), ("binary".to_owned(), vec![0, 255])].into()
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_key_under_the_same_name_only() {
        let key = Key::parse(&format!("{}\n", Key::generate())).unwrap();
        let row = seal(&key, "team", "cloud", &data(), None).unwrap();
        assert!(!format!("{row:?}").contains(&STANDARD.encode("hunter2")));
        assert_eq!(open(&key, &row), Ok(data()));
        let other = Key::parse(&Key::generate()).unwrap();
        assert_eq!(open(&other, &row), Err(SealError::Open));
        let moved = DeclaredRow { namespace: "others".into(), ..row.clone() };
        assert_eq!(open(&key, &moved), Err(SealError::Open));
        let cut = DeclaredRow { spec: json!({FIELD: "AAAA"}), ..row };
        assert_eq!(open(&key, &cut), Err(SealError::Open));
    }

    #[test]
    fn what_did_not_change_is_not_sealed_anew() {
        let key = Key::parse(&Key::generate()).unwrap();
        let row = seal(&key, "team", "cloud", &data(), None).unwrap();
        assert_eq!(seal(&key, "team", "cloud", &data(), Some(&row)), Ok(row.clone()));
        let changed: Data = [("token".to_owned(), b"other".to_vec())].into();
        let sealed = seal(&key, "team", "cloud", &changed, Some(&row)).unwrap();
        assert_eq!(open(&key, &sealed), Ok(changed));
        let renewed = seal(&Key::parse(&Key::generate()).unwrap(), "team", "cloud", &data(), Some(&row)).unwrap();
        assert_ne!(renewed, row, "another key seals anew");
    }

    #[test]
    fn a_text_is_opened_for_its_own_purpose_only() {
        let key = Key::parse(&Key::generate()).unwrap();
        let sealed = key.seal_text("session", "ada").unwrap();
        assert_eq!(key.open_text("session", &sealed), Ok("ada".to_owned()));
        assert_eq!(key.open_text("link", &sealed), Err(SealError::Open));
        for bad in ["", "AAAA", &sealed[1..], "ä"] {
            assert_eq!(key.open_text("session", bad), Err(SealError::Open), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_32_bytes_and_never_shown() {
        for text in ["", "hunter2", "aGVsbG8="] {
            assert_eq!(Key::parse(text).err(), Some(SealError::Key), "{text}");
        }
        assert_eq!(format!("{:?}", Key::parse(&Key::generate()).unwrap()), "Key(redacted)");
    }
}
