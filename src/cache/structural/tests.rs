#![expect(dead_code, reason = "of these types only the shape is looked at")]

use serde::{Deserialize, Serialize};

use super::*;
use crate::cache::{CachedObject, Structural};

/// The hash of the type `T` among these items, each of which derives it. An alias stands before them in brackets.
macro_rules! hash {
    (($($alias:tt)*) $($item:item)*) => {{
        type $($alias)*;
        $(#[derive(Structural)] $item)*
        <T as super::Structural>::STRUCT_HASH
    }};
    ($($item:item)*) => {{
        $(#[derive(Structural)] $item)*
        <T as super::Structural>::STRUCT_HASH
    }};
}

/// A type made by a macro, whose tokens come in groups of their own.
macro_rules! made {
    ($name:ident $field:ident $of_type:ty) => {
        #[derive(Structural)]
        struct $name {
            $field: $of_type,
        }
    };
}

const MUST_DIFFER: &[(&str, u64, u64)] = &[
    ("a type's name", hash! { struct T { a: u8 } }, hash! { (T = Other) struct Other { a: u8 } }),
    ("a field's name", hash! { struct T { a: u8 } }, hash! { struct T { b: u8 } }),
    ("fields' order", hash! { struct T { a: u8, b: u8 } }, hash! { struct T { b: u8, a: u8 } }),
    ("a field's type", hash! { struct T { a: u8 } }, hash! { struct T { a: u16 } }),
    ("a sign", hash! { struct T { a: i64 } }, hash! { struct T { a: u64 } }),
    ("a size of the machine", hash! { struct T { a: usize } }, hash! { struct T { a: u64 } }),
    ("one field more", hash! { struct T { a: u8 } }, hash! { struct T { a: u8, b: u8 } }),
    ("types swapped", hash! { struct T { a: u8, b: u16 } }, hash! { struct T { a: u16, b: u8 } }),
    (
        "names run together",
        hash! { struct T { ab: u8, c: u8 } },
        hash! { struct T { a: u8, bc: u8 } },
    ),
    ("named or by place", hash! { struct T { a: u8 } }, hash! { struct T(u8); }),
    ("empty braces or a unit", hash! { struct T {} }, hash! { struct T; }),
    ("empty brackets or a unit", hash! { struct T(); }, hash! { struct T; }),
    ("struct or enum", hash! { struct T { a: u8 } }, hash! { enum T { T { a: u8 } } }),
    ("optional", hash! { struct T { a: u8 } }, hash! { struct T { a: Option<u8> } }),
    ("one or many", hash! { struct T { a: u8 } }, hash! { struct T { a: Vec<u8> } }),
    ("list or set", hash! { struct T { a: Vec<u8> } }, hash! { struct T { a: BTreeSet<u8> } }),
    ("boxed", hash! { struct T { a: u8 } }, hash! { struct T { a: Box<u8> } }),
    ("an array's length", hash! { struct T([u8; 4]); }, hash! { struct T([u8; 5]); }),
    ("array or list", hash! { struct T([u8; 4]); }, hash! { struct T(Vec<u8>); }),
    ("a tuple's length", hash! { struct T((u8, u8)); }, hash! { struct T((u8, u8, u8)); }),
    ("a tuple's nesting", hash! { struct T((u8, (u8, u8))); }, hash! { struct T(((u8, u8), u8)); }),
    ("fields or a tuple", hash! { struct T(u8, u8); }, hash! { struct T((u8, u8)); }),
    ("a map's key", hash! { struct T(BTreeMap<u8, u8>); }, hash! { struct T(BTreeMap<u16, u8>); }),
    ("a map's value", hash! { struct T(HashMap<u8, u8>); }, hash! { struct T(HashMap<u8, u16>); }),
    ("a result's error", hash! { struct T(Result<u8, u8>); }, hash! { struct T(Result<u8, u16>); }),
    (
        "options around lists",
        hash! { struct T(Option<Vec<u8>>); },
        hash! { struct T(Vec<Option<u8>>); },
    ),
    ("a variant's name", hash! { enum T { A, B } }, hash! { enum T { A, C } }),
    ("variants' order", hash! { enum T { A, B } }, hash! { enum T { B, A } }),
    ("one variant more", hash! { enum T { A } }, hash! { enum T { A, B } }),
    ("a variant's kind", hash! { enum T { A } }, hash! { enum T { A {} } }),
    ("a variant's content", hash! { enum T { A(u8) } }, hash! { enum T { A(u16) } }),
    ("a variant's field", hash! { enum T { A { x: u8 } } }, hash! { enum T { A { y: u8 } } }),
    (
        "a field in another variant",
        hash! { enum T { A { x: u8 }, B {} } },
        hash! { enum T { A {}, B { x: u8 } } },
    ),
    (
        "serde on the type",
        hash! { struct T { a_b: u8 } },
        hash! { #[serde(rename_all = "camelCase")] struct T { a_b: u8 } },
    ),
    (
        "what serde on the type says",
        hash! { #[serde(rename_all = "lowercase")] enum T { A } },
        hash! { #[serde(rename_all = "UPPERCASE")] enum T { A } },
    ),
    (
        "serde on a field",
        hash! { struct T { a: u8 } },
        hash! { struct T { #[serde(rename = "b")] a: u8 } },
    ),
    (
        "serde on another field",
        hash! { struct T { #[serde(default)] a: u8, b: u8 } },
        hash! { struct T { a: u8, #[serde(default)] b: u8 } },
    ),
    (
        "serde on the type or its first field",
        hash! { #[serde(default)] struct T { a: u8 } },
        hash! { struct T { #[serde(default)] a: u8 } },
    ),
    ("serde on a variant", hash! { enum T { A, B } }, hash! { enum T { A, #[serde(other)] B } }),
    (
        "serde on a variant's field",
        hash! { enum T { A(u8) } },
        hash! { enum T { A(#[serde(default)] u8) } },
    ),
    (
        "how an enum is tagged",
        hash! { #[serde(tag = "t")] enum T { A { x: u8 } } },
        hash! { #[serde(tag = "t", content = "c")] enum T { A { x: u8 } } },
    ),
    ("skipped", hash! { struct T { a: u8 } }, hash! { struct T { #[serde(skip)] a: u8 } }),
    (
        "one level down",
        hash! { struct Inner { x: u8 } struct T { a: Inner } },
        hash! { struct Inner { x: u16 } struct T { a: Inner } },
    ),
    (
        "serde one level down",
        hash! { struct Inner { x: u8 } struct T { a: Inner } },
        hash! { struct Inner { #[serde(rename = "y")] x: u8 } struct T { a: Inner } },
    ),
    (
        "three levels down",
        hash! { struct C { x: u8 } struct B(Vec<C>); enum A { B(Option<B>) } struct T { a: A } },
        hash! { struct C { y: u8 } struct B(Vec<C>); enum A { B(Option<B>) } struct T { a: A } },
    ),
    (
        "the same fields under another name",
        hash! { struct A { x: u8 } struct T { a: A } },
        hash! { struct B { x: u8 } struct T { a: B } },
    ),
    (
        "where an alias leads",
        hash! { (Id = u32) struct T { a: Id } },
        hash! { (Id = u64) struct T { a: Id } },
    ),
    (
        "an argument",
        hash! { (T = G<u8>) struct G<A> { a: A } },
        hash! { (T = G<u16>) struct G<A> { a: A } },
    ),
    (
        "an argument that no field holds",
        hash! { (T = G<u8>) struct G<A> { a: u8, #[cache(hash_by_hand = "m")] m: PhantomData<A> } },
        hash! { (T = G<u16>) struct G<A> { a: u8, #[cache(hash_by_hand = "m")] m: PhantomData<A> } },
    ),
    (
        "arguments swapped",
        hash! { (T = G<u8, u16>) struct G<A, B> { a: A, b: B } },
        hash! { (T = G<u16, u8>) struct G<A, B> { a: A, b: B } },
    ),
    (
        "a constant argument",
        hash! { (T = G<2>) struct G<const N: usize> { a: u8 } },
        hash! { (T = G<3>) struct G<const N: usize> { a: u8 } },
    ),
    (
        "a constant argument's sign",
        hash! { (T = G<1>) struct G<const N: i8> { a: u8 } },
        hash! { (T = G<{ -1 }>) struct G<const N: i8> { a: u8 } },
    ),
    (
        "a type declared by hand",
        hash! { #[cache(hash_by_hand = "1")] struct T { a: u8 } },
        hash! { #[cache(hash_by_hand = "2")] struct T { a: u8 } },
    ),
    (
        "a field declared by hand",
        hash! { struct T { #[cache(hash_by_hand = "1")] #[serde(with = "x")] a: u8 } },
        hash! { struct T { #[cache(hash_by_hand = "2")] #[serde(with = "x")] a: u8 } },
    ),
    (
        "by hand or not",
        hash! { struct T { a: u8 } },
        hash! { struct T { #[cache(hash_by_hand = "u8")] a: u8 } },
    ),
];

const MUST_NOT_DIFFER: &[(&str, u64, u64)] = &[
    ("the same again", hash! { struct T { a: u8 } }, hash! { struct T { a: u8 } }),
    (
        "a comment",
        hash! { struct T { a: u8 } },
        hash! { /** It is. */ struct T { /** One. */ a: u8 } },
    ),
    ("visibility", hash! { struct T { a: u8 } }, hash! { pub struct T { pub a: u8 } }),
    (
        "another attribute",
        hash! { struct T { a: u8 } },
        hash! { #[derive(Debug)] #[repr(C)] struct T { a: u8 } },
    ),
    (
        "a longer path",
        hash! { struct T { a: String } },
        hash! { struct T { a: std::string::String } },
    ),
    ("an alias", hash! { struct T { a: u64 } }, hash! { (Id = u64) struct T { a: Id } }),
    (
        "an alias with an argument",
        hash! { struct T { a: Vec<u8> } },
        hash! { (Many<X> = Vec<X>) struct T { a: Many<u8> } },
    ),
    ("a length worked out", hash! { struct T([u8; 4]); }, hash! { struct T([u8; 2 + 2]); }),
    (
        "serde attributes together or apart",
        hash! { struct T { #[serde(default, rename = "b")] a: u8 } },
        hash! { struct T { #[serde(default)] #[serde(rename = "b")] a: u8 } },
    ),
    (
        "white space in an attribute",
        hash! { struct T { #[serde(rename(serialize = "b", deserialize = "c"))] a: u8 } },
        hash! { struct T { #[serde(rename (serialize="b" ,deserialize="c"),)] a: u8 } },
    ),
    (
        "a parameter's name",
        hash! { (T = G<u8>) struct G<A> { a: A } },
        hash! { (T = G<u8>) struct G<Z> { a: Z } },
    ),
    (
        "where a bound stands",
        hash! { (T = G<u8>) struct G<A: Clone> { a: A } },
        hash! { (T = G<u8>) struct G<A> where A: Clone { a: A } },
    ),
    (
        "a default argument",
        hash! { (T = G<u8>) struct G<A> { a: A } },
        hash! { (T = G) struct G<A = u8> { a: A } },
    ),
    (
        "a lifetime's name",
        hash! { (T = G<'static>) struct G<'a> { a: &'a str } },
        hash! { (T = G<'static>) struct G<'b> { a: &'b str } },
    ),
    ("a raw name", hash! { struct T { a: u8 } }, hash! { struct T { r#a: u8 } }),
    ("a hasher", hash! { struct T(HashSet<u8>); }, hash! { struct T(HashSet<u8, ()>); }),
    (
        "what is not compiled",
        hash! { struct T { a: u8 } },
        hash! { struct T { a: u8, #[cfg(any())] b: u8 } },
    ),
    ("a number of a variant", hash! { enum T { A, B } }, hash! { enum T { A = 4, B = 9 } }),
    ("made by a macro", hash! { struct T { a: Vec<u8> } }, {
        made!(T a Vec<u8>);
        <T as super::Structural>::STRUCT_HASH
    }),
    (
        "what stands behind a declared hash",
        hash! { #[cache(hash_by_hand = "1")] struct T { a: u8 } },
        hash! { #[cache(hash_by_hand = "1")] struct T { a: u16, next: Option<Box<T>> } },
    ),
];

#[test]
fn every_change_of_a_type_changes_its_hash_and_nothing_else_does() {
    for (what, one, other) in MUST_DIFFER {
        assert_ne!(one, other, "{what}");
    }
    for (what, one, other) in MUST_NOT_DIFFER {
        assert_eq!(one, other, "{what}");
    }
    assert!(MUST_DIFFER.len() + MUST_NOT_DIFFER.len() >= 40);
}

#[derive(Clone, Serialize, Deserialize, CachedObject)]
#[cache(name = "pinned", ttl = 60)]
#[serde(rename_all = "camelCase")]
struct Pinned<A> {
    user_id: i64,
    kind: Kind,
    #[serde(default)]
    more: BTreeMap<String, Vec<Option<A>>>,
}

#[derive(Clone, Serialize, Deserialize, Structural)]
enum Kind {
    Key(i64),
    Session { id: String },
    None,
}

/// Worked out by a second implementation, in Python. Whatever changes them makes every other release miss.
#[test]
fn hashes_are_the_same_on_every_machine_and_with_every_compiler() {
    assert_eq!(Kind::STRUCT_HASH, 0x1df6_c59e_3ba0_0a6f);
    assert_eq!(<Pinned<bool>>::STRUCT_HASH, 0xb6d4_6b26_aed0_d772);
    assert_eq!(<(u8, Option<String>)>::STRUCT_HASH, 0x94cc_20e5_58c3_b6a5);
    assert_eq!(Shape::new("").finish(), 0x3517_d9d0_c6ef_72f1);
    assert_eq!((<Pinned<u8>>::NAME, <Pinned<u8>>::TTL), ("pinned", Duration::from_secs(60)));
}
