//! Sealing: AES-256-GCM with a random nonce, for what has to be kept where others may read it. What is sealed for one
//! purpose or person cannot be opened as another's.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// Seals under the current key of one purpose, and opens what that or an earlier one sealed.
pub struct Sealer(Vec<RandomizedNonceKey>);

impl Sealer {
    /// Keys, the current one first.
    pub(super) fn new(keys: impl Iterator<Item = [u8; 32]>) -> Self {
        let key = |bytes: [u8; 32]| {
            RandomizedNonceKey::new(&AES_256_GCM, &bytes).expect("AES-256 takes 32 bytes")
        };
        Self(keys.map(key).collect())
    }

    /// The nonce, the sealed text and its tag. `whose` is not in it, and needed to open it.
    pub fn seal(&self, whose: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self
            .0
            .first()?
            .seal_in_place_append_tag(Aad::from(whose.as_bytes()), &mut sealed)
            .ok()?;
        Some([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// What was sealed; `None` if it was altered, is somebody else's, or was sealed under another key.
    pub fn open(&self, whose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        self.0.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = sealed.to_vec();
            let plain = key.open_in_place(nonce, Aad::from(whose.as_bytes()), &mut text).ok()?;
            Some(plain.to_vec())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_owner_alone_and_unaltered() {
        let (old, new) =
            (Sealer::new([[1; 32]].into_iter()), Sealer::new([[2; 32], [1; 32]].into_iter()));
        let sealed = old.seal("user:7", b"token").unwrap();

        assert_eq!(old.open("user:7", &sealed).unwrap(), b"token");
        assert_eq!(new.open("user:7", &sealed).unwrap(), b"token", "after a rotation");
        assert_eq!(old.open("user:8", &sealed), None);
        assert_eq!(old.open("user:7", &new.seal("user:7", b"token").unwrap()), None);
        assert_ne!(old.seal("user:7", b"token").unwrap(), sealed, "never the same twice");
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(old.open("user:7", &altered), None);
            assert_eq!(old.open("user:7", &sealed[..at]), None);
        }
    }
}
