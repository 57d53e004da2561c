//! The structural hash: what a type is made of, as a number that is part of each key. A type that changed has another
//! number, so what was stored under the old shape is not even asked for.
//!
//! It is FNV-1a over a description in which every text carries its length and every item its kind, so that no two
//! descriptions run into each other. Everything is `const`: it costs nothing at run time, and depends on the source
//! alone, not on the machine or the compiler.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

/// A type whose shape is known: derive it, for each type that a cached one holds.
#[diagnostic::on_unimplemented(
    message = "the structural hash cannot follow `{Self}`",
    label = "not `Structural`",
    note = "derive `Structural` for it, or declare a hash by hand: #[cache(hash_by_hand = \"text\")] on the field \
            that holds it, and change the text whenever what is inside changes"
)]
pub trait Structural {
    /// The same for the same source; another one after any change of a name, an order, a type or a serde attribute, at
    /// any depth.
    ///
    /// "Cycle detected" here means that types hold each other, without an end: declare a hash by hand on one of them,
    /// `#[cache(hash_by_hand = "text")]`, and change the text whenever what is inside changes.
    const STRUCT_HASH: u64;
}

/// What a cached value has to be able to do.
pub trait Storable: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Storable for T {}

/// A value that a cache can hold: `#[derive(CachedObject)]` with `#[cache(name = "…", ttl = seconds)]`.
pub trait CachedObject: Structural + Storable {
    /// In keys and metrics.
    const NAME: &'static str;
    /// How long a value counts.
    const TTL: Duration;
}

/// Describes a type, item by item. What the derive writes; whoever implements [`Structural`] by hand can use it, too.
#[derive(Clone, Copy)]
pub struct Shape(u64);

impl Shape {
    pub const fn new(name: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).item(b'N', name)
    }

    /// The hash of something declared by hand.
    pub const fn declared(text: &str) -> u64 {
        Self::new("").by_hand(text).finish()
    }

    pub const fn by_hand(self, text: &str) -> Self {
        self.item(b'H', text)
    }

    /// A serde attribute of the item that came last.
    pub const fn attribute(self, text: &str) -> Self {
        self.item(b'A', text)
    }

    /// The hash of a type that a generic type was made with.
    pub const fn argument(self, hash: u64) -> Self {
        self.byte(b'G').bytes(&hash.to_le_bytes())
    }

    pub const fn constant(self, value: u128) -> Self {
        self.byte(b'C').bytes(&value.to_le_bytes())
    }

    pub const fn enumeration(self) -> Self {
        self.byte(b'E')
    }

    pub const fn variant(self, name: &str) -> Self {
        self.item(b'V', name)
    }

    pub const fn named(self) -> Self {
        self.byte(b'S')
    }

    pub const fn tuple(self) -> Self {
        self.byte(b'T')
    }

    pub const fn unit(self) -> Self {
        self.byte(b'U')
    }

    pub const fn field(self, name: &str, of_type: u64) -> Self {
        self.item(b'F', name).bytes(&of_type.to_le_bytes())
    }

    pub const fn finish(self) -> u64 {
        self.0
    }

    const fn item(self, kind: u8, text: &str) -> Self {
        self.byte(kind).bytes(&(text.len() as u64).to_le_bytes()).bytes(text.as_bytes())
    }

    const fn bytes(mut self, mut bytes: &[u8]) -> Self {
        while let [first, rest @ ..] = bytes {
            self = self.byte(*first);
            bytes = rest;
        }
        self
    }

    const fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

macro_rules! plain {
    ($($of_type:ty),*) => {$(
        impl Structural for $of_type {
            const STRUCT_HASH: u64 = Shape::new(stringify!($of_type)).finish();
        }
    )*};
}
plain!(
    bool, char, str, String, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32,
    f64
);
plain!(Duration, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr);

macro_rules! made_with {
    ($($name:literal $of_type:ty : $($argument:ident $(+ $unsized:tt)?),*;)*) => {$(
        impl<$($argument: Structural $(+ ?$unsized)?),*> Structural for $of_type {
            const STRUCT_HASH: u64 = Shape::new($name)$(.argument($argument::STRUCT_HASH))*.finish();
        }
    )*};
}
made_with! {
    "Option" Option<T>: T;
    "Result" Result<T, E>: T, E;
    "Vec" Vec<T>: T;
    "VecDeque" VecDeque<T>: T;
    "slice" [T]: T;
    "Box" Box<T>: T + Sized;
    "Rc" Rc<T>: T + Sized;
    "Arc" Arc<T>: T + Sized;
    "BTreeSet" BTreeSet<T>: T;
    "BTreeMap" BTreeMap<K, V>: K, V;
    "PhantomData" PhantomData<T>: T + Sized;
    "()" (): ;
    "(1)" (A,): A;
    "(2)" (A, B): A, B;
    "(3)" (A, B, C): A, B, C;
    "(4)" (A, B, C, D): A, B, C, D;
    "(5)" (A, B, C, D, E): A, B, C, D, E;
    "(6)" (A, B, C, D, E, F): A, B, C, D, E, F;
}

impl<T: Structural, S> Structural for HashSet<T, S> {
    const STRUCT_HASH: u64 = Shape::new("HashSet").argument(T::STRUCT_HASH).finish();
}

impl<K: Structural, V: Structural, S> Structural for HashMap<K, V, S> {
    const STRUCT_HASH: u64 =
        Shape::new("HashMap").argument(K::STRUCT_HASH).argument(V::STRUCT_HASH).finish();
}

impl<T: Structural, const N: usize> Structural for [T; N] {
    const STRUCT_HASH: u64 =
        Shape::new("array").argument(T::STRUCT_HASH).constant(N as u128).finish();
}

impl<T: Structural + ToOwned + ?Sized> Structural for Cow<'_, T> {
    const STRUCT_HASH: u64 = Shape::new("Cow").argument(T::STRUCT_HASH).finish();
}

impl<T: Structural + ?Sized> Structural for &T {
    const STRUCT_HASH: u64 = Shape::new("&").argument(T::STRUCT_HASH).finish();
}

#[cfg(test)]
mod tests;
