//! Bodies of any form. Each is made twice: as it comes, and as it must go to Bedrock.

use proptest::prelude::*;

use super::*;

/// A piece of JSON as it comes, and what stays of it.
#[derive(Debug, Clone)]
struct Piece {
    whole: String,
    kept: Option<String>,
}

fn same(text: impl Into<String>) -> Piece {
    let whole = text.into();
    Piece { kept: Some(whole.clone()), whole }
}

impl Piece {
    fn gone(self) -> Self {
        Self { kept: None, ..self }
    }
}

/// Chance, from bytes that shrink to nothing.
struct Dice {
    bytes: std::vec::IntoIter<u8>,
}

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.bytes.next().unwrap_or(0)) % limit
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn space(&mut self) -> &'static str {
        self.one(&["", "", " ", "\n", "\t ", "\r\n  "])
    }

    /// A string that means `text`, some of it escaped.
    fn string(&mut self, text: &str) -> String {
        let mut out = String::from("\"");
        for unit in text.chars() {
            match self.below(12) {
                11 => out.push_str(&format!("\\u{:04x}", unit as u32)),
                _ => out.push(unit),
            }
        }
        out + "\""
    }

    fn value(&mut self, depth: usize) -> String {
        let space = self.space();
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => self
                .one(&["0", "-0", "1e400", "0.10", "1E+2", "123456789012345678901234567890"])
                .to_owned(),
            1 => self.one(&["null", "true", "false"]).to_owned(),
            2 => self
                .one(&[r#""""#, r#""\ud83d""#, r#""\udc00\ud800""#, r#""🦀\/\n\"""#, r#""\\""#])
                .to_owned(),
            3 => self.one(&[r#"",\"model\":{""#, r#""}]""#, r#"",""#, r#""\\\"""#]).to_owned(),
            4 => format!("[{space}]"),
            5 => format!("{{{space}}}"),
            6 => {
                let items = (0..self.below(4)).map(|_| same(self.value(depth - 1))).collect();
                self.list(items).whole
            }
            _ => {
                // Names that mean something elsewhere mean nothing here.
                let names = ["model", "scope", "cache_control", "service_tier", "\\ud800", ""];
                let count = self.below(4);
                let members =
                    (0..count).map(|at| (names[at], same(self.value(depth - 1)))).collect();
                self.object(members, false).whole
            }
        }
    }

    /// `items` between brackets. An item that goes takes the comma after it along; those at the end take the one before
    /// them. A list of which all goes, goes.
    fn enclosed(&mut self, open: &str, items: Vec<Piece>, close: &str) -> Piece {
        let (mut whole, mut kept) = (open.to_owned(), open.to_owned());
        let last_kept = items.iter().rposition(|item| item.kept.is_some());
        let count = items.len();
        for (at, item) in items.into_iter().enumerate() {
            let (before, after) = (self.space(), self.space());
            let comma = if at + 1 < count { "," } else { "" };
            whole.push_str(&format!("{before}{}{after}{comma}", item.whole));
            let is_followed = last_kept.is_some_and(|last| at < last);
            match item.kept {
                Some(text) => kept.push_str(&format!(
                    "{before}{text}{after}{}",
                    if is_followed { "," } else { "" }
                )),
                None if is_followed => kept.push_str(before),
                None if at + 1 == count => kept.push_str(after),
                None => {}
            }
        }
        let kept = (last_kept.is_some() || count == 0).then(|| kept + close);
        Piece { whole: whole + close, kept }
    }

    fn list(&mut self, items: Vec<Piece>) -> Piece {
        self.enclosed("[", items, "]")
    }

    fn object(&mut self, members: Vec<(&str, Piece)>, mixed: bool) -> Piece {
        let mut pieces = Vec::new();
        for (name, value) in members {
            let name = if name.contains('\\') { format!("\"{name}\"") } else { self.string(name) };
            let name = format!("{name}{}:{}", self.space(), self.space());
            let kept = value.kept.map(|kept| format!("{name}{kept}"));
            let at = if mixed { self.below(pieces.len() + 1) } else { pieces.len() };
            pieces.insert(at, Piece { whole: name + &value.whole, kept });
        }
        self.enclosed("{", pieces, "}")
    }

    /// Perhaps a member.
    fn maybe<'a>(
        &mut self,
        members: &mut Vec<(&'a str, Piece)>,
        name: &'a str,
        value: fn(&mut Self) -> Piece,
    ) {
        if self.below(3) > 0 {
            let value = value(self);
            members.push((name, value));
        }
    }

    fn any(&mut self) -> Piece {
        same(self.value(2))
    }

    fn any_gone(&mut self) -> Piece {
        self.any().gone()
    }

    fn cache_control(&mut self) -> Piece {
        let mut members = Vec::new();
        self.maybe(&mut members, "type", |_| same("\"ephemeral\""));
        self.maybe(&mut members, "scope", Self::any_gone);
        self.maybe(&mut members, "ttl", Self::any);
        self.object(members, true)
    }

    /// A block, of a message if it may hold others.
    fn block(&mut self, holds: bool) -> Piece {
        let mut members = vec![("type", same("\"text\""))];
        self.maybe(&mut members, "text", Self::any);
        self.maybe(&mut members, "cache_control", Self::cache_control);
        self.maybe(&mut members, "x_new", Self::any);
        if holds && self.below(4) == 0 {
            members.push(("content", self.blocks_of_results()));
        }
        self.object(members, true)
    }

    fn blocks_of_results(&mut self) -> Piece {
        let items = (0..self.below(3)).map(|_| {
            let mut members = vec![("text", same("\"a\""))];
            self.maybe(&mut members, "cache_control", Self::cache_control);
            self.object(members, true)
        });
        let items = items.collect();
        self.list(items)
    }

    fn blocks(&mut self) -> Piece {
        let items = (0..self.below(4)).map(|_| self.block(false)).collect();
        self.list(items)
    }

    fn edits(&mut self) -> Piece {
        let kinds =
            ["clear_thinking_20251015", "compact_20260112", "clear_tool_uses_20250919", "x"];
        let items = (0..self.below(5)).map(|_| {
            let kind = self.below(kinds.len());
            let members = vec![("type", same(self.string(kinds[kind]))), ("keep", self.any())];
            let edit = self.object(members, true);
            if (1..=2).contains(&kind) { edit } else { edit.gone() }
        });
        let items = items.collect();
        self.list(items)
    }

    fn context_management(&mut self) -> Piece {
        let mut members = vec![("edits", self.edits())];
        self.maybe(&mut members, "x_new", Self::any);
        self.object(members, true)
    }

    fn message(&mut self) -> Piece {
        let blocks = (0..self.below(4)).map(|_| self.block(true)).collect();
        let content = if self.below(3) == 0 { same("\"hi\"") } else { self.list(blocks) };
        self.object(vec![("role", same("\"user\"")), ("content", content)], true)
    }

    fn messages(&mut self) -> Piece {
        let items = (0..self.below(3)).map(|_| self.message()).collect();
        self.list(items)
    }

    fn body(&mut self) -> Piece {
        let mut members = vec![
            ("model", same("\"m\"").gone()),
            ("max_tokens", same("1")),
            ("messages", self.messages()),
        ];
        self.maybe(&mut members, "stream", |_| same("true").gone());
        self.maybe(&mut members, "anthropic_version", |_| same("\"2023-06-01\"").gone());
        self.maybe(&mut members, "anthropic_beta", |_| same("[\"a\" , \"oauth-1\"]").gone());
        self.maybe(&mut members, "system", Self::blocks);
        self.maybe(&mut members, "tools", Self::blocks);
        self.maybe(&mut members, "context_management", Self::context_management);
        self.maybe(&mut members, "metadata", Self::any);
        self.maybe(&mut members, "x_new", Self::any);
        self.maybe(&mut members, "\\ud83d", Self::any);
        for name in ["service_tier", "speed", "cache_control", "diagnostics", "compaction"] {
            self.maybe(&mut members, name, Self::any_gone);
        }
        self.object(members, true)
    }
}

fn body() -> impl Strategy<Value = Piece> {
    let bytes = prop::collection::vec(any::<u8>(), 0..900);
    bytes.prop_map(|bytes| Dice { bytes: bytes.into_iter() }.body())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_stays_but_those_of_members_that_go(body in body(), before in "[ \n\t\r]{0,2}", after in "[ \n\t\r]{0,2}") {
        let whole = format!("{before}{}{after}", body.whole);

        let edited = to(SONNET_4_5, &[]).edit(&whole).unwrap();

        let flags = match edited.betas.is_empty() {
            true => String::new(),
            false => format!(r#""anthropic_beta":{},"#, json!(edited.betas)),
        };
        let kept = body.kept.unwrap();
        let wanted = format!(r#"{before}{{"anthropic_version":"bedrock-2023-05-31",{flags}{}{after}"#, kept.trim_start_matches('{'));
        prop_assert_eq!(std::str::from_utf8(&edited.body).unwrap(), wanted);
    }

    #[test]
    fn a_damaged_body_is_refused_or_edited_into_json(
        body in body(),
        at in any::<prop::sample::Index>(),
        length in 0..4usize,
        put in prop_oneof![prop::collection::vec(any::<u8>(), 0..3), prop::sample::select(vec![b"\"".to_vec(), b",".to_vec(), b"{}".to_vec(), b"\\".to_vec()])],
        paths in prop::sample::subsequence(vec!["metadata", "x_new.model", "system[].text", "messages[].content[].cache_control", "tools[].x_new"], 0..3),
        flag in prop::sample::select(vec!["compact-2026-01-12", "context-management-2025-06-27", "a"]),
    ) {
        let mut bytes = body.whole.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + length).min(bytes.len()), put);
        let learned = paths.iter().map(|path| field(path)).chain(refuses(flag)).collect();
        let request = Asked { learned, ..to(HAIKU_3, &["a", "compact-2026-01-12"]) };

        request.edit(&body.whole).unwrap();
        _ = request.edit(&bytes); // which looks at what comes out
        _ = Incoming::reread(bytes.into(), &RULES);
    }

    #[test]
    fn bytes_of_any_kind_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(to(SONNET_4_5, &[]).edit(&bytes).is_err());
    }
}

/// Quadratic work over any of these would take minutes.
#[test]
fn a_large_body_is_edited_in_one_go() {
    const MANY: usize = 10_000;
    let repeated = |part: &str| vec![part; MANY].join(",");
    let blocks =
        repeated(r#"{"type":"text","text":"a","cache_control":{"type":"ephemeral","scope":"s"}}"#);
    let wrappers = repeated(r#""custom":{"defer_loading":true}"#);
    let scopes = repeated(r#""scope":1"#);
    let edits = repeated(r#"{"type":"clear_thinking_20251015"}"#);
    let flags: Vec<String> = (0..MANY).map(|at| format!("\"f-{at}\"")).collect();
    let members: Vec<String> = (0..MANY).map(|at| format!("\"m{at}\":{at}")).collect();
    let body = format!(
        r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":[{blocks}]}}],"anthropic_beta":[{}],
            "tools":[{{"name":"a",{wrappers},"cache_control":{{{scopes}}}}},{{"x":[{blocks}]}}],
            "system":[{}],"context_management":{{"edits":[{edits}]}},{}}}"#,
        flags.join(","),
        repeated(r#"{"type":"text","text":"x-anthropic-billing-header:"}"#),
        members.join(","),
    );

    let edited = to(SONNET_4_5, &[]).edit(&body).unwrap();

    let text = std::str::from_utf8(&edited.body).unwrap();
    let count = |part: &str| text.matches(part).count();
    assert_eq!(
        (count("\"scope\""), count(r#""cache_control":{"type":"ephemeral"}"#)),
        (MANY, MANY)
    );
    assert_eq!((count("custom"), count(r#"{"name":"a","defer_loading":true}"#)), (0, 1));
    assert_eq!(
        (count("system"), count("context_management"), edited.betas.len()),
        (0, 0, edit::MOST_FLAGS + 1)
    );
    assert!(edited.notes.len() <= MOST_NOTES && text.ends_with(r#""m9999":9999}"#));
}
