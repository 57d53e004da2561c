//! What a value is kept in: until when it counts, what its writer knew, and a seal over key and value. Whoever can write
//! to the store can neither make a value, nor move one to another key, nor bring one back after its time.
//!
//! ```text
//! version 1 | kind 1 | ends 8 | generation 8 | value … | HMAC-SHA-256 32
//! ```
//! Numbers are big-endian; `ends` is in milliseconds since 1970. The seal is over the key's length, the key, and all
//! that stands before it.

use aws_lc_rs::hmac;

const VERSION: u8 = 1;
const SEAL: usize = 32;
const HEAD: usize = 18;

/// What is in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents<'a> {
    /// Milliseconds since 1970.
    pub ends: i64,
    /// The generation that the writer knew before it read the value.
    pub generation: i64,
    /// `None`: that there is none.
    pub value: Option<&'a [u8]>,
}

/// It is not one of ours, or was changed, or lies under another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cached value is not genuine")]
pub struct Forged;

/// Seals with the first of its secrets, and opens with any.
pub struct Sealer(Vec<hmac::Key>);

impl Sealer {
    pub fn new(secrets: &[[u8; 32]]) -> Self {
        Self(secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect())
    }

    pub fn close(&self, key: &str, contents: Contents<'_>) -> Vec<u8> {
        let value = contents.value.unwrap_or_default();
        let mut sealed = Vec::with_capacity(HEAD + value.len() + SEAL);
        sealed.extend([VERSION, u8::from(contents.value.is_some())]);
        sealed.extend(contents.ends.to_be_bytes());
        sealed.extend(contents.generation.to_be_bytes());
        sealed.extend(value);
        if let Some(secret) = self.0.first() {
            let seal = hmac::sign(secret, &covered(key, &sealed));
            sealed.extend(seal.as_ref());
        }
        sealed
    }

    /// # Errors
    /// [`Forged`].
    pub fn open<'a>(&self, key: &str, sealed: &'a [u8]) -> Result<Contents<'a>, Forged> {
        let (body, seal) = sealed.split_last_chunk::<SEAL>().ok_or(Forged)?;
        let covered = covered(key, body);
        let genuine = self.0.iter().any(|secret| hmac::verify(secret, &covered, seal).is_ok());
        let (head, value) = body.split_first_chunk::<HEAD>().filter(|_| genuine).ok_or(Forged)?;
        let number = |at: usize| {
            let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(i64::from_be_bytes).ok_or(Forged)
        };
        let value = match head {
            [VERSION, 0, ..] if value.is_empty() => None,
            [VERSION, 1, ..] => Some(value),
            _ => return Err(Forged),
        };
        Ok(Contents { ends: number(2)?, generation: number(10)?, value })
    }
}

fn covered(key: &str, body: &[u8]) -> Vec<u8> {
    [&(key.len() as u64).to_be_bytes(), key.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(numbers: &[u8]) -> Sealer {
        Sealer::new(&numbers.iter().map(|number| [*number; 32]).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back_and_nothing_else_does(
            key in ".{0,40}",
            other in ".{0,40}",
            ends: i64,
            generation: i64,
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
            flip: prop::sample::Index,
            bit in 0..8_u32,
            cut: prop::sample::Index,
            junk in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let contents = Contents { ends, generation, value: value.as_deref() };
            let sealed = sealer(&[1]).close(&key, contents);

            prop_assert_eq!(sealer(&[1]).open(&key, &sealed), Ok(contents));
            prop_assert_eq!(sealer(&[2, 1]).open(&key, &sealed), Ok(contents), "an older secret");
            prop_assert_eq!(sealer(&[2]).open(&key, &sealed), Err(Forged));
            if other != key {
                prop_assert_eq!(sealer(&[1]).open(&other, &sealed), Err(Forged));
            }
            let mut changed = sealed.clone();
            changed[flip.index(sealed.len())] ^= 1 << bit;
            prop_assert_eq!(sealer(&[1]).open(&key, &changed), Err(Forged));
            prop_assert_eq!(sealer(&[1]).open(&key, &sealed[..cut.index(sealed.len())]), Err(Forged));
            let longer = [sealed, vec![0]].concat();
            prop_assert_eq!(sealer(&[1]).open(&key, &longer), Err(Forged));
            prop_assert_eq!(sealer(&[1]).open(&key, &junk), Err(Forged));
        }
    }

    #[test]
    fn a_key_and_a_value_do_not_run_into_each_other() {
        let sealer = sealer(&[1]);
        let contents = Contents { ends: 1, generation: 1, value: Some(b"v") };
        let sealed = sealer.close("ab", contents);
        assert_eq!(sealer.open("a", &sealed), Err(Forged));
        assert_eq!(sealer.open("ab\u{1}", &sealed), Err(Forged));
    }

    #[test]
    fn without_a_secret_nothing_is_genuine() {
        let contents = Contents { ends: 1, generation: 1, value: Some(b"v") };
        let sealed = sealer(&[]).close("k", contents);
        assert_eq!(sealer(&[]).open("k", &sealed), Err(Forged));
    }
}
