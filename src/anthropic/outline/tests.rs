use proptest::prelude::*;

use super::*;

/// A node that looks for these places; each is reported by its position.
fn looking_for(places: &[&str]) -> Node {
    let mut node = Node::default();
    for (mark, place) in places.iter().enumerate() {
        node.add(&place.parse().unwrap(), mark);
    }
    node
}

/// The places found, as `mark: item => value`.
fn found(body: &str, places: &[&str]) -> Vec<String> {
    let outline = read(body.as_bytes(), &looking_for(places)).unwrap();
    let part = |range: &Range<usize>| body.get(range.clone()).unwrap();
    let shown = |hit: &Hit| format!("{}: {} => {}", hit.mark, part(&hit.item), part(&hit.value));
    outline.hits.iter().map(shown).collect()
}

fn refused(body: impl AsRef<[u8]>) -> Option<Malformed> {
    read(body.as_ref(), &looking_for(&["a.b", "l[].x", "t[type=q]"])).err()
}

#[test]
fn places_are_found_wherever_they_are() {
    for (body, places, wanted) in [
        (r#"{"a":1}"#, &["a"][..], &[r#"0: "a":1 => 1"#][..]),
        (r#"{"a":1}"#, &["b", "a.b", "a[]", "a[type=x]"], &[]),
        (r#"{}"#, &["a"], &[]),
        (
            "\t{ \"a\" :\r\n[ ] , \"b\":\"}\" } ",
            &["b", "a"],
            &["1: \"a\" :\r\n[ ] => [ ]", "0: \"b\":\"}\" => \"}\""],
        ),
        (r#"{"\u0061":{"b":null}}"#, &["a.b"], &[r#"0: "b":null => null"#]),
        (
            r#"{"a":{"b":{}},"b":2}"#,
            &["a", "a.b"],
            &[r#"1: "b":{} => {}"#, r#"0: "a":{"b":{}} => {"b":{}}"#],
        ),
        (
            r#"{"l":[1, {"x":-1.5e3},[]]}"#,
            &["l[]", "l[].x"],
            &[
                "0: 1 => 1",
                r#"1: "x":-1.5e3 => -1.5e3"#,
                r#"0: {"x":-1.5e3} => {"x":-1.5e3}"#,
                "0: [] => []",
            ],
        ),
        (r#"{"l":{"x":1}}"#, &["l[].x", "l[type=y]"], &[]),
        (
            r#"{"l":[{"type":"ab"},{"type":"b","n":[]},{},7]}"#,
            &["l[type=a*|c]"],
            &[r#"0: {"type":"ab"} => {"type":"ab"}"#],
        ),
        (
            r#"{"l":[{"ty\u0070e":"\u0061"},{"type":null},7]}"#,
            &["l[type!=a]"],
            &[r#"0: {"type":null} => {"type":null}"#, "0: 7 => 7"],
        ),
        (
            r#"{"a":"\\","b":"\"","c":"\\\"}"}"#,
            &["a", "b", "c"],
            &[r#"0: "a":"\\" => "\\""#, r#"1: "b":"\"" => "\"""#, r#"2: "c":"\\\"}" => "\\\"}""#],
        ),
    ] {
        assert_eq!(found(body, places), wanted, "{body} {places:?}");
    }
}

#[test]
fn containers_say_where_they_are_and_how_much_they_hold() {
    let body = r#" {"a":{"b":1,"c":2},"l":[ {"x":1},{} ]}"#;

    let outline = read(body.as_bytes(), &looking_for(&["a.b", "l[].x"])).unwrap();

    let shown = |container: &Container| {
        let part = |range: &Range<usize>| body.get(range.clone()).unwrap();
        let (item, value) = (part(&container.item), part(&container.value));
        (item.to_owned(), item.ends_with(value), container.count, container.parent)
    };
    let wanted = [
        (r#"{"a":{"b":1,"c":2},"l":[ {"x":1},{} ]}"#, 2, None),
        (r#""a":{"b":1,"c":2}"#, 2, Some(0)),
        (r#""l":[ {"x":1},{} ]"#, 2, Some(0)),
        (r#"{"x":1}"#, 1, Some(2)),
        ("{}", 0, Some(2)),
    ];
    let wanted = wanted.map(|(item, count, parent)| (item.to_owned(), true, count, parent));
    assert_eq!(outline.containers.iter().map(shown).collect::<Vec<_>>(), wanted);
}

#[test]
fn what_is_no_json_object_is_refused() {
    for body in ["[]", " [1]", "null", "1", "\"{}\"", "true"] {
        assert_eq!(refused(body), Some(Malformed::NotAnObject), "{body}");
    }
    for body in [
        "",
        " ",
        "{",
        "{]",
        "{}}",
        "{} {}",
        "{}x",
        "{}\0",
        "\u{feff}{}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":01}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":NaN}",
        "{\"a\":tru}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":[1,]}",
        "{\"a\":}",
        "{\"a\":\"}",
        "{\"a\":1}//",
        "{\"a\":\u{a0}1}",
        "{\"a\":\u{c}1}",
    ] {
        assert!(
            matches!(refused(body), Some(Malformed::Syntax(_))),
            "{body:?}: {:?}",
            refused(body)
        );
    }
    for (body, at) in [
        (&b"\xff{}"[..], 0),
        (b"{\"a\":\"\xc3\"}", 6),
        (b"{\"\xed\xa0\x80\":1}", 2),
        (b"{}\xc0\x80", 2),
    ] {
        assert_eq!(refused(body), Some(Malformed::Encoding(at)));
    }
}

#[test]
fn what_is_odd_but_json_is_read() {
    for body in [
        r#"{"a":"\ud83d"}"#,
        r#"{"\udc00":1,"\ud800":2}"#,
        r#"{"":{"":{}}}"#,
        r#"{"a":1e400,"b":-0,"c":1E-999}"#,
        r#"{"a":123456789012345678901234567890.123456789}"#,
        r#"{"a":"🦀","🦀":"\ud83e\udd80"}"#,
        "{\"a\":\"\u{2028}\u{7f}\u{0}\"}".replace('\0', "\\u0000").as_str(),
        "\n{\t}\r ",
    ] {
        assert_eq!(refused(body), None, "{body}");
    }
}

#[test]
fn a_member_of_the_body_is_there_once() {
    for (body, twice) in [
        (r#"{"a":1,"a":2}"#, Some("a")),
        (r#"{"model":1,"b":{},"mod\u0065l":2}"#, Some("model")),
        (r#"{"\ud83e\udd80":1,"🦀":2}"#, Some("🦀")),
        (r#"{"":1,"":2}"#, Some("")),
        (r#"{"a":1,"A":2,"a ":3}"#, None),
        (r#"{"x":{"a":1,"a":2},"a":[{"a":1,"a":1}]}"#, None),
    ] {
        assert_eq!(refused(body), twice.map(|name| Malformed::Twice(name.to_owned())), "{body}");
    }
    let long = "n".repeat(500);
    let body = format!(r#"{{"{long}":1,"{long}":2}}"#);
    assert_eq!(refused(body), Some(Malformed::Twice("n".repeat(80))));
}

#[test]
fn nesting_ends_at_its_limit_wherever_it_is() {
    // How each body is begun and ended, and how many levels that is.
    for (before, after, levels) in [
        ("", "", 0),
        (r#"{"unknown":"#, "}", 1),
        (r#"{"a":"#, "}", 1),
        (r#"{"a":{"b":"#, "}}", 2),
        (r#"{"a":{"unknown":"#, "}}", 2),
        (r#"{"a":[{"unknown":"#, "}]}", 3),
        (r#"{"l":["#, "]}", 2),
        (r#"{"l":[{"x":"#, "}]}", 3),
        (r#"{"t":[{"type":"q","x":"#, "}]}", 3),
    ] {
        for (open, close) in [("[", "]"), (r#"{"x":"#, "}")] {
            let body = |depth: usize| {
                let (open, close) = (open.repeat(depth - levels), close.repeat(depth - levels));
                format!(
                    "{before}{open}{}{close}{after}",
                    if open.ends_with(':') { "1" } else { "" }
                )
            };
            if before.is_empty() && open == "[" {
                continue; // no object
            }
            assert_eq!(refused(body(DEEPEST)), None, "{before}{open}");
            assert_eq!(refused(body(DEEPEST + 1)), Some(Malformed::Depth), "{before}{open}");
            assert_eq!(refused(body(DEEPEST * 1000)), Some(Malformed::Depth), "{before}{open}");
        }
    }
}

#[test]
fn a_place_deeper_than_any_body_is_never_reached() {
    let place = vec!["x"; DEEPEST + 5].join(".");
    let body = |depth: usize| format!("{}1{}", r#"{"x":"#.repeat(depth), "}".repeat(depth));

    let read = |depth| read(body(depth).as_bytes(), &looking_for(&[place.as_str()]));

    assert!(read(DEEPEST).is_ok_and(|outline| outline.hits.is_empty()));
    assert!(read(DEEPEST + 1).is_err_and(|error| error == Malformed::Depth));
    assert!(read(DEEPEST + 4).is_err_and(|error| error == Malformed::Depth));
}

#[test]
fn text_is_read_as_json_means_it() {
    for (value, wanted) in [
        (r#""""#, Some("")),
        (r#""abc 🦀""#, Some("abc 🦀")),
        (r#""\u0061\n\"\\\/\ud83e\udd80""#, Some("a\n\"\\/🦀")),
        (r#""\ud83e""#, None),
        (r#""\udd80\ud83e""#, None),
        ("null", None),
        ("12", None),
        (r#"["a"]"#, None),
        ("\"", None),
        ("", None),
    ] {
        assert_eq!(text(value.as_bytes()).as_deref(), wanted, "{value}");
    }
}

#[test]
fn members_and_items_are_found_by_name_and_position() {
    let object = br#" { "a" : [1] ,"\u0062":{"a":2}, "c":"}", "a":3 } "#;
    let list = b"\n[ 1,[2,3] , {\"a\":[4]},\"]\" ]";
    let utf8 =
        |value: Option<&'static [u8]>| value.map(|value| std::str::from_utf8(value).unwrap());

    for (name, wanted) in
        [("a", Some("[1]")), ("b", Some(r#"{"a":2}"#)), ("c", Some("\"}\"")), ("d", None)]
    {
        assert_eq!(utf8(member(object, name)), wanted, "{name}");
    }
    for (at, wanted) in [
        (0, Some("1")),
        (1, Some("[2,3]")),
        (2, Some(r#"{"a":[4]}"#)),
        (3, Some("\"]\"")),
        (4, None),
    ] {
        assert_eq!(utf8(item(list, at)), wanted, "{at}");
    }
    let names: Vec<_> = members(object).map(|(_, name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c", "a"]);
    assert_eq!((member(list, "a"), item(object, 0)), (None, None));
    assert_eq!(
        (member(b"{}", ""), item(b"[]", 0), member(b"", "a"), item(b" ", 0)),
        (None, None, None, None)
    );
}

/// Bytes that look like JSON often enough to lead a reader astray.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let tokens = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ",",
        ":",
        "\\",
        "\"a\"",
        "\"l\":",
        "\"type\":\"q\"",
        "1",
        "null",
        " ",
        "\u{e9}",
    ];
    let token = prop::sample::select(tokens.to_vec()).prop_map(|token| token.as_bytes().to_vec());
    let bytes = prop::collection::vec(any::<u8>(), 0..3);
    prop::collection::vec(prop_oneof![8 => token, 1 => bytes], 0..40)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_survived(bytes in nearly_json(), at in 0..5usize) {
        let node = looking_for(&["a", "a.l[]", "l[].a", "l[type=q]"]);

        let read = read(&bytes, &node);

        prop_assert_eq!(read.is_ok(), is_json_object(&bytes) && !is_twice(&bytes));
        let parts = [text(&bytes).map(|text| text.len()), member(&bytes, "a").map(<[u8]>::len), item(&bytes, at).map(<[u8]>::len)];
        prop_assert!(parts.into_iter().flatten().all(|length| length <= bytes.len()));
        prop_assert!(members(&bytes).count() <= bytes.len());
    }
}

fn is_json_object(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|value| value.is_object())
}

fn is_twice(bytes: &[u8]) -> bool {
    let count = serde_json::from_slice::<serde_json::Map<_, _>>(bytes).map(|object| object.len());
    count.ok() != Some(members(bytes).count())
}
