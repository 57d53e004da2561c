//! What must not compile, with what is said then. After a change of compiler, `TRYBUILD=overwrite` writes the texts
//! anew; they have to be read, not only written.

#[test]
fn what_cannot_be_followed_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
