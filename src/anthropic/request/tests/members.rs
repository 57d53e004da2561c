//! Which members of the body go.

use super::*;

#[test]
fn members_that_bedrock_has_not_are_taken_out() {
    for (members, kept) in [
        (r#""service_tier":"auto","speed":"fast","top_k":5"#, r#""top_k":5"#),
        (r#""a":1,"cache_control":{"type":"ephemeral"},"b":2"#, r#""a":1,"b":2"#),
        (r#""a":1,"compaction":{},"diagnostics":[{}],"fallbacks":0"#, r#""a":1"#),
        (
            r#""billing_policy":1,"a":1,"fallback_credit_token":1,"workspace_id":"w","b":2,"speed":1"#,
            r#""a":1,"b":2"#,
        ),
        (r#""metadata":{"user_id":"u","speed":1}"#, r#""metadata":{"user_id":"u","speed":1}"#),
        ("\"a\" : 1 ,\n \"speed\" : \t\"x\" ,\r\n \"b\" : 2 ", "\"a\" : 1 ,\n \r\n \"b\" : 2 "),
        (r#""\u0073peed":1,"sp\u0065ed2":2"#, r#""sp\u0065ed2":2"#),
        (r#""st\u0072eam":true"#, ""),
        (
            r#""temperature":1e400,"top_p":-0,"x":12345678901234567890123,"y":1.0E+2"#,
            r#""temperature":1e400,"top_p":-0,"x":12345678901234567890123,"y":1.0E+2"#,
        ),
        (
            r#""x":"\ud83d","\udc00":"🦀\u0000\/","y":"é\u00e9""#,
            r#""x":"\ud83d","\udc00":"🦀\u0000\/","y":"é\u00e9""#,
        ),
        // Caching
        (
            r#""system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","scope":"global"}}]"#,
            r#""system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]"#,
        ),
        (
            r#""tools":[{"name":"a","cache_control":{"scope":"global" ,"ttl":"1h"}}]"#,
            r#""tools":[{"name":"a","cache_control":{"ttl":"1h"}}]"#,
        ),
        (
            r#""tools":[{"name":"a","cache_control":{"scope":"global"}},{"cache_control":null}]"#,
            r#""tools":[{"name":"a"},{"cache_control":null}]"#,
        ),
        (
            r#""tools":[{"cache_control":{"scope":1,"scope":2}},{"name":"b"}]"#,
            r#""tools":[{"name":"b"}]"#,
        ),
        // Context management
        (r#""context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}"#, ""),
        (
            r#""context_management":{"edits":[{"type":"clear_thinking_20251015"}],"x":1}"#,
            r#""context_management":{"x":1}"#,
        ),
        (
            r#""context_management":{"edits":[]},"context_managements":1"#,
            r#""context_management":{"edits":[]},"context_managements":1"#,
        ),
        (r#""context_management":null"#, r#""context_management":null"#),
        // Tools
        (r#""tools":[{"name":"a","custom":{"x":1}}]"#, r#""tools":[{"name":"a"}]"#),
        (
            r#""tools":[{"custom":{},"name":"a"},{"custom":null,"name":"b"}]"#,
            r#""tools":[{"name":"a"},{"name":"b"}]"#,
        ),
        (
            r#""tools":[{"type":"custom","name":"a"},{"type":"bash_20250124"},{"type":"memory_20250818"}]"#,
            r#""tools":[{"type":"custom","name":"a"},{"type":"bash_20250124"},{"type":"memory_20250818"}]"#,
        ),
        (
            r#""tools":{"custom":1},"system":{"cache_control":{"scope":1}}"#,
            r#""tools":{"custom":1},"system":{"cache_control":{"scope":1}}"#,
        ),
    ] {
        assert_eq!(to(SONNET_4_5, &[]).keeps(members), (vec![], kept.to_owned()), "{members}");
    }
}

#[test]
fn other_edits_of_the_context_stay() {
    let members = r#""context_management":{"edits":[{"type":"clear_thinking_20251015"}, {"type":"clear_tool_uses_20250919"},{"keep":1},{"type":"compact_20260112"},{"type":"x"}]}"#;
    let flags = ["context-management-2025-06-27", "compact-2026-01-12"];

    let (betas, rest) = to(SONNET_4_5, &flags).keeps(members);

    assert_eq!(betas, flags);
    assert_eq!(
        rest,
        r#""context_management":{"edits":[ {"type":"clear_tool_uses_20250919"},{"type":"compact_20260112"}]}"#
    );
}

#[test]
fn what_a_tool_wraps_takes_the_wrapper_s_place() {
    const FLAG: &str = "tool-search-tool-2025-10-19";
    for (tool, lifted) in [
        (r#"{"custom":{"defer_loading":true},"name":"a"}"#, r#"{"defer_loading":true,"name":"a"}"#),
        (
            r#"{"name":"a","custom" : {"x":[1],"d\u0065fer_loading" : true , "y":{}} }"#,
            r#"{"name":"a","d\u0065fer_loading" : true }"#,
        ),
        (
            r#"{"defer_loading":false,"custom":{"defer_loading":true}}"#,
            r#"{"defer_loading":false}"#,
        ),
        (
            r#"{"custom":{"defer_loading":true},"custom":{"defer_loading":1},"defer_loading":false}"#,
            r#"{"defer_loading":false}"#,
        ),
        (
            r#"{"custom":{"defer_loading":1},"custom":{"defer_loading":2,"defer_loading":3}}"#,
            r#"{"defer_loading":1}"#,
        ),
    ] {
        let (tools, lifted) = (format!(r#""tools":[{tool}]"#), format!(r#""tools":[{lifted}]"#));
        let mut request = to(SONNET_4_5, &[]);
        assert_eq!(request.keeps(&tools), (vec![FLAG.to_owned()], lifted));

        // What is lifted goes like any other member.
        let named = if tool.contains(r#""name""#) { r#""tools":[{"name":"a"}]"# } else { "" };
        for learned in [refuses(FLAG), vec![field("tools[].defer_loading")]] {
            request.learned = learned;
            let (betas, rest) = request.keeps(&tools);
            assert_eq!((betas, rest.replace(" }", "}")), (vec![], named.to_owned()), "{tool}");
        }
    }
}

#[test]
fn the_age_of_a_cache_is_left_out_for_old_models_everywhere() {
    let body = r#""system":[{"cache_control":{"type":"e","ttl":"1h"}}],"tools":[{"cache_control":{"ttl":"5m","type":"e"}}],
        "messages":[{"role":"user","content":[{"cache_control":{"a":1,"ttl":1,"scope":2,"b":1},"content":[{"cache_control":{"scope":1,"ttl":1,"type":"e"}}]}]}]"#;
    for (base, is_old) in [
        (HAIKU_3, true),
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", true),
        ("anthropic.claude-sonnet-4-20250514-v1:0", true),
        ("anthropic.claude-opus-4-20250514-v1:0", true),
        ("anthropic.claude-opus-4-1-20250805-v1:0", true),
        ("anthropic.claude-v2:1", true),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", false),
        (SONNET_4_5, false),
        ("anthropic.claude-sonnet-4-6", false),
        (OPUS_4_8, false),
    ] {
        let edited =
            to(base, &[]).edit(format!(r#"{{"model":"m","max_tokens":9,{body}}}"#)).unwrap();

        let text = std::str::from_utf8(&edited.body).unwrap();
        assert_eq!(text.matches("ttl").count(), if is_old { 0 } else { 4 }, "{base}");
        assert!(!text.contains("scope"));
        assert_eq!(text.matches(r#""type":"e""#).count(), 3);
    }
}

#[test]
fn what_cannot_be_had_is_refused_by_name_unless_it_is_empty() {
    for member in ["mcp_servers", "container", "inference_geo", "output_format", "thread"] {
        for nothing in ["null", "[]", "{}", "[ \n]", "{\t}"] {
            let members = format!(r#""{member}":{nothing}"#);
            assert_eq!(to(SONNET_4_5, &[]).keeps(&members), (vec![], String::new()));
        }
        for something in ["\"x\"", "[{}]", "{\"a\":null}", "0", "false", "\"\""] {
            let body =
                format!(r#"{{"model":"m","max_tokens":1,"messages":[],"{member}":{something}}}"#);
            assert_eq!(error(body), format!("{member}: not available on Bedrock; leave it out"));
        }
    }
    for kind in [
        "web_search_20250305",
        "web_fetch_20250910",
        "code_execution_20250825",
        "mcp_toolset",
        "advisor_20260301",
    ] {
        let body = format!(
            r#"{{"model":"m","max_tokens":1,"messages":[],"tools":[{{"name":"a"}},{{"type":"{kind}"}}]}}"#
        );
        assert!(error(body).starts_with(&format!("tools: Bedrock has no `{kind}`")));
    }
}

#[test]
fn what_was_learned_goes_too_wherever_it_is() {
    let members = r#""thinking":{"display":"x","type":"adaptive"},"new":{"a":{"b":[{"c":1},{"c":2,"d":3}]}},"tools":[{"name":"a","strict":true}]"#;
    for (paths, kept) in [
        (
            &["thinking.display"][..],
            r#""thinking":{"type":"adaptive"},"new":{"a":{"b":[{"c":1},{"c":2,"d":3}]}},"tools":[{"name":"a","strict":true}]"#,
        ),
        (
            &["new.a.b[].c", "tools[].strict"],
            r#""thinking":{"display":"x","type":"adaptive"},"new":{"a":{"b":[{"d":3}]}},"tools":[{"name":"a"}]"#,
        ),
        (&["new.a.b[].c", "new.a.b[].d", "thinking"], r#""tools":[{"name":"a","strict":true}]"#),
        (
            &["new", "new.a.b[].c", "tools[].nothing"],
            r#""thinking":{"display":"x","type":"adaptive"},"tools":[{"name":"a","strict":true}]"#,
        ),
    ] {
        let learned = paths.iter().map(|path| field(path)).collect();

        assert_eq!(
            Asked { learned, ..to(OPUS_4_8, &[]) }.keeps(members),
            (vec![], kept.to_owned())
        );
    }
    // A flag does not outlive its member.
    let learned = vec![field("context_management"), Refused::Version];
    let request = Asked { learned, ..to(OPUS_4_8, &["context-management-2025-06-27", "a"]) };
    let members = r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}"#;
    assert_eq!(request.keeps(members), (vec!["a".to_owned()], String::new()));
}
