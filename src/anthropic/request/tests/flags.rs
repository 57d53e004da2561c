//! Which beta flags are sent, and what goes with them.

use super::*;

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

#[test]
fn flags_are_sent_renamed_or_dropped() {
    for (asked, sent) in [
        (&["interleaved-thinking-2025-05-14"][..], &["interleaved-thinking-2025-05-14"][..]),
        (
            &["context-1m-2025-08-07", "thinking-binding-controls-2026-08-01"],
            &["context-1m-2025-08-07", "thinking-binding-controls-2026-08-01"],
        ),
        (
            &["thinking-display-updates-2026-08-18", "mid-conversation-tool-changes-2026-07-01"],
            &["thinking-display-updates-2026-08-18", "mid-conversation-tool-changes-2026-07-01"],
        ),
        (&["nobody-knows-2031-01-01"], &["nobody-knows-2031-01-01"]),
        (&["x-2031-01-01", "y", "x-2031-01-01", "y"], &["x-2031-01-01", "y"]),
        (&["claude-code-20250219", "oauth-2025-04-20", "prompt-caching-scope-2026-01-05"], &[]),
        (&["advisor-tool-2026-03-01", "code-execution-2025-08-25", "fast-mode-2026-02-01"], &[]),
        (&["files-api-2025-04-14", "mcp-client-2025-11-20", "skills-2025-10-02"], &[]),
        (&["structured-outputs-2025-11-13", "web-search-2025-03-05", "web-fetch-2025-09-10"], &[]),
        (
            &[
                "token-efficient-tools-2025-02-19",
                "output-128k-2025-02-19",
                "per-turn-control-2026-07-01",
            ],
            &[],
        ),
        (&["prompt-caching-2024-07-31", "pdfs-2024-09-25", "token-counting-2024-11-01"], &[]),
        (&["message-batches-2024-09-24", "extended-cache-ttl-2025-04-11", ""], &[]),
        // These mean nothing without a member.
        (&["compact-2026-01-12", "context-management-2025-06-27", "effort-2025-11-24"], &[]),
        (
            &[
                "computer-use-2025-01-24",
                "computer-use-2025-11-24",
                "dangerous-tool-use-2026-09-03",
            ],
            &[],
        ),
        (
            &[
                "tool-search-tool-2025-10-19",
                "advanced-tool-use-2025-11-20",
                "tool-examples-2025-10-29",
            ],
            &[],
        ),
        // This one does.
        (&["fine-grained-tool-streaming-2025-05-14"], &["fine-grained-tool-streaming-2025-05-14"]),
    ] {
        let (betas, rest) = to(SONNET_4_5, asked).keeps("");
        let in_body = format!(r#""anthropic_beta":{}"#, json!(asked));

        assert_eq!(
            (betas, rest),
            (sent.iter().map(|flag| (*flag).to_owned()).collect(), String::new())
        );
        assert_eq!(to(SONNET_4_5, &[]).keeps(&in_body).0, sent);
    }
    let (betas, _) =
        to(SONNET_4_5, &["a", "b"]).keeps(r#""anthropic_beta":["c","\u0061","oauth-1"]"#);
    assert_eq!(betas, ["a", "b", "c"]);
    for wrong in ["null", "\"a\"", "[1]", "{}", r#"["\ud800"]"#] {
        let body =
            format!(r#"{{"model":"m","anthropic_beta":{wrong},"max_tokens":9,"messages":[]}}"#);
        assert_eq!(error(body), "anthropic_beta: Input should be a list of strings");
    }
}

/// A member, and the flag that it needs.
const PAIRS: &[(&str, &str)] = &[
    (r#""context_management":{"edits":[{"type":"compact_20260112"}]}"#, "compact-2026-01-12"),
    (
        r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919","keep":{}}]}"#,
        "context-management-2025-06-27",
    ),
    (r#""tools":[{"type":"computer_20250124","name":"c"}]"#, "computer-use-2025-01-24"),
    (r#""tools":[{"type":"computer_20251124","name":"c"}]"#, "computer-use-2025-11-24"),
    (r#""safeguards":{"x":1}"#, "dangerous-tool-use-2026-09-03"),
    (r#""output_config":{"effort":"low"}"#, "effort-2025-11-24"),
    (r#""tools":[{"eager_input_streaming":true}]"#, "fine-grained-tool-streaming-2025-05-14"),
    (r#""tools":[{"input_examples":[{}]}]"#, "tool-examples-2025-10-29"),
    (r#""tools":[{"defer_loading":false}]"#, "tool-search-tool-2025-10-19"),
    (
        r#""tools":[{"type":"tool_search_tool_regex_20251119","name":"t"}]"#,
        "tool-search-tool-2025-10-19",
    ),
];

#[test]
fn a_member_gets_its_flag_and_goes_where_the_flag_is_refused_unless_it_is_essential() {
    for (member, flag) in PAIRS {
        let mut request = to(OPUS_4_5, &[]);
        assert_eq!(request.keeps(member), (vec![(*flag).to_owned()], (*member).to_owned()));

        request.headers.betas = vec![(*flag).to_owned()];
        assert_eq!(request.keeps(member), (vec![(*flag).to_owned()], (*member).to_owned()));

        request.learned = refuses(flag);
        let essential = [r#""type":"computer"#, r#""type":"tool_search"#, "safeguards"];
        let kept = match essential.iter().any(|part| member.contains(part)) {
            true => (vec![(*flag).to_owned()], (*member).to_owned()),
            false => (vec![], String::new()),
        };
        assert_eq!(request.keeps(member), kept, "{flag}");
        assert_eq!(request.keeps(""), (vec![], String::new()), "{flag}");
    }
}

#[test]
fn only_the_member_goes_whose_flag_is_refused() {
    let mut request = to(SONNET_4_5, &["advanced-tool-use-2025-11-20", "tool-examples-2025-10-29"]);
    request.learned = refuses("tool-search-tool-2025-10-19");
    let tools = r#""tools":[{"name":"a","defer_loading":true,"input_examples":[]}]"#;

    let kept = request.keeps(tools);

    let tools = r#""tools":[{"name":"a","input_examples":[]}]"#;
    assert_eq!(kept, (vec!["tool-examples-2025-10-29".to_owned()], tools.to_owned()));
}

#[test]
fn effort_stands_alone_where_it_is_no_beta_any_more() {
    let member = r#""output_config":{"format":{},"effort":"high"}"#;
    for (base, asked, learned, sent) in [
        (OPUS_4_5, false, false, true),
        (OPUS_4_8, false, false, false),
        (OPUS_4_8, true, false, true),
        (OPUS_4_8, true, true, false),
        (SONNET_4_5, false, true, false),
    ] {
        let mut request = to(base, if asked { &["effort-2025-11-24"] } else { &[] });
        request.learned = if learned { refuses("effort-2025-11-24") } else { vec![] };

        let (betas, rest) = request.keeps(member);

        assert_eq!((!betas.is_empty(), rest.as_str()), (sent, member), "{base}");
    }
}

#[test]
fn an_operator_s_rows_keep_flags_and_members_together() {
    let rules = rules_with(
        r#"{"new-*": {fields: [x]}, "only-1": {models: ["anthropic.claude-opus-*"], fields: [y]}, "also-1": {fields: [y, z]},
            "claude-code-*": ~, "fast-mode-2027-01-01": {fields: [speed]}, "oauth-2025-04-20": forward}"#,
        "{speed: keep, service_tier: ~, inference_geo: drop, 'a[].b': {lift: [c, d]}}",
    );
    for (base, asked, members, sent, kept) in [
        (OPUS_4_8, &["new-1", "new-2"][..], r#""x":1"#, &["new-1", "new-2"][..], r#""x":1"#),
        (OPUS_4_8, &["new-1"], "", &[], ""),
        (OPUS_4_8, &[], r#""x":1"#, &[], ""), // no flag is known that could be added
        (OPUS_4_8, &[], r#""y":1"#, &["also-1", "only-1"], r#""y":1"#),
        // One of its flags is not for this model, and takes it along; then the other is idle.
        (SONNET_4_5, &["also-1"], r#""y":1"#, &[], ""),
        (SONNET_4_5, &["only-1"], r#""y":1,"z":1"#, &["also-1"], r#""z":1"#),
        (
            OPUS_4_8,
            &["claude-code-1", "oauth-2025-04-20", "oauth-2"],
            "",
            &["claude-code-1", "oauth-2025-04-20"],
            "",
        ),
        (
            OPUS_4_8,
            &["fast-mode-2027-01-01"],
            r#""speed":"fast""#,
            &["fast-mode-2027-01-01"],
            r#""speed":"fast""#,
        ),
        (
            OPUS_4_8,
            &[],
            r#""service_tier":"auto","inference_geo":"eu""#,
            &[],
            r#""service_tier":"auto""#,
        ),
        (OPUS_4_8, &[], r#""a":[{"b":{"d" :1, "e":2,"c":[ ]}}]"#, &[], r#""a":[{"d" :1,"c":[ ]}]"#),
    ] {
        let (betas, rest) = Asked { rules: &rules, ..to(base, asked) }.keeps(members);

        assert_eq!((betas.as_slice(), rest.as_str()), (owned(sent).as_slice(), kept), "{members}");
    }
}

#[test]
fn the_long_context_is_asked_for_where_it_needs_a_flag() {
    const FLAG: &str = "context-1m-2025-08-07";
    for (base, asked, learned, sent) in [
        (SONNET_4_5, &[][..], vec![], &[FLAG][..]),
        (SONNET_4_5, &[FLAG], vec![], &[FLAG]),
        (SONNET_4_5, &["a"], vec![], &["a", FLAG]),
        (SONNET_4_5, &[FLAG], refuses(FLAG), &[]),
        ("anthropic.claude-sonnet-4-20250514-v1:0", &[], vec![], &[FLAG]),
        ("anthropic.claude-sonnet-4-6", &[], vec![], &[FLAG]),
        ("anthropic.claude-opus-4-6-v1", &[], vec![], &[FLAG]),
        (OPUS_4_8, &[], vec![], &[]),
        (OPUS_4_8, &[FLAG], vec![], &[]),
    ] {
        let mut request = Asked { long_context: true, learned, ..to(base, asked) };
        assert_eq!(request.keeps("").0, sent, "{base}");
        (request.long_context, request.learned) = (false, vec![]);
        let kept = if base == OPUS_4_8 { &[] } else { asked };
        assert_eq!(request.keeps("").0, kept);
    }
}
