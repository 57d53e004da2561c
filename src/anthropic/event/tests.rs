use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The payload of a chunk, with padding as AWS sends it.
fn chunk(event: impl AsRef<[u8]>) -> Vec<u8> {
    json!({ "bytes": STANDARD.encode(event), "p": "abcdefgh" }).to_string().into_bytes()
}

/// What a client gets of an event.
fn written(event: impl AsRef<[u8]>) -> Result<String, BadEvent> {
    let mut out = BytesMut::new();
    Decoder::default().decode(&chunk(event))?.write(&mut out);
    Ok(String::from_utf8(out.to_vec()).unwrap())
}

fn event(kind: &str, data: &str) -> Result<String, BadEvent> {
    Ok(format!("event: {kind}\ndata: {data}\n\n"))
}

#[test]
fn every_event_is_written_with_its_type_and_its_own_bytes() {
    for (kind, data) in [
        (
            "message_start",
            r#"{"type":"message_start","message":{"id":"msg_bdrk_1","type":"message","role":"assistant","content":[],"usage":{"input_tokens":1}}}"#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\nb \"c\" 🦀 \ud83e\udd80 \ud83d"}}"#,
        ),
        (
            "content_block_delta",
            r#"{"index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a"},"type":"content_block_delta"}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","citation":{}}}"#,
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1e0}}"#,
        ),
        ("message_stop", r#"{"type":"message_stop"}"#),
        ("ping", r#"{"type": "ping"}"#),
        ("error", r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#),
        (
            "what_is_new",
            r#" { "\u0074ype" : "what\u005fis\u005fnew" , "n" : 1E400,"\ud800":-0, "":[ ] } "#,
        ),
        ("later", r#"{"type":"first","type":"later"}"#),
    ] {
        assert_eq!(written(data), event(kind, data));
    }
}

#[test]
fn bedrock_s_metrics_are_taken_out_wherever_they_are() {
    const METRICS: &str =
        r#""amazon-bedrock-invocationMetrics":{"inputTokenCount":12,"x":[{},"}"]}"#;
    for (data, kept) in [
        (r#"{"type":"m",METRICS}"#, r#"{"type":"m"}"#),
        (r#"{METRICS,"type":"m"}"#, r#"{"type":"m"}"#),
        (r#"{"a":[1 , 2],METRICS,"type":"m"}"#, r#"{"a":[1 , 2],"type":"m"}"#),
        (r#"{ "type" : "m" , METRICS }"#, r#"{ "type" : "m"  }"#),
        (r#"{"type":"m","\u0061mazon-bedrock-invocationMetrics" : null}"#, r#"{"type":"m"}"#),
        (r#"{METRICS,METRICS,"type":"m",METRICS}"#, r#"{"type":"m"}"#),
        // Only as a member of the event itself.
        (r#"{"type":"m","a":{METRICS}}"#, r#"{"type":"m","a":{METRICS}}"#),
        (r#"{"type":"m","a":{METRICS},METRICS}"#, r#"{"type":"m","a":{METRICS}}"#),
        (
            r#"{"a":{METRICS},"\u0061mazon-bedrock-invocationMetrics":1,"type":"m"}"#,
            r#"{"a":{METRICS},"type":"m"}"#,
        ),
        (
            r#"{"type":"m","a":"\"amazon-bedrock-invocationMetrics\":1",METRICS}"#,
            r#"{"type":"m","a":"\"amazon-bedrock-invocationMetrics\":1"}"#,
        ),
        (
            r#"{"type":"m","Amazon-Bedrock-invocationMetrics":1}"#,
            r#"{"type":"m","Amazon-Bedrock-invocationMetrics":1}"#,
        ),
    ] {
        let (data, kept) = (data.replace("METRICS", METRICS), kept.replace("METRICS", METRICS));
        let kept = kept.as_str();

        assert_eq!(written(&data), event("m", kept), "{data}");
        let mut decoder = Decoder::default();
        let payload = chunk(&data);
        assert_eq!(
            decoder.decode(&payload).unwrap().json,
            data.as_bytes(),
            "usage is read from all of it"
        );
    }
}

#[test]
fn what_has_no_type_is_left_out() {
    for data in [
        r#"{"amazon-bedrock-invocationMetrics":{"inputTokenCount":12}}"#,
        "{}",
        r#"{"a":{"type":"m"}}"#,
        r#"{"type":null}"#,
        r#"{"type":5}"#,
        r#"{"type":["m"]}"#,
        r#"{"type":""}"#,
        r#"{"type":"m\nevent: forged"}"#,
        r#"{"type":"m\r"}"#,
        r#"{"type":"\u0000"}"#,
        r#"{"type":"\u0085"}"#,
        r#"{"type":"\ud83d"}"#,
    ] {
        assert_eq!(written(data), Ok(String::new()), "{data}");
    }
}

#[test]
fn what_is_no_event_is_an_error() {
    for event in [
        &b""[..],
        b"null",
        b"[]",
        br#"["message_stop",null]"#,
        b"\"m\"",
        b"1",
        b"{",
        br#"{"type":"m"}}"#,
        br#"{"type":"m",}"#,
        b"\xef\xbb\xbf{\"type\":\"m\"}",
        b"{\"type\":\"m\",\"a\":\"\xff\"}",
        b"{\"type\":\"m\",\"a\":\"\n\"}",
        br#"{"type":"m"} {"type":"m"}"#,
        br#"{"type":"m","a":"\x"}"#,
    ] {
        assert_eq!(written(event), Err(BadEvent::Event), "{}", String::from_utf8_lossy(event));
    }
}

#[test]
fn what_is_no_chunk_is_an_error() {
    for payload in [
        &b""[..],
        b"{}",
        b"null",
        br#"["e30="]"#,
        br#"{"bytes":null}"#,
        br#"{"bytes":5}"#,
        br#"{"p":"e30="}"#,
        br#"{"bytes":"e30"}"#,
        br#"{"bytes":"e3 0="}"#,
        br#"{"bytes":"e30=\n"}"#,
        br#"{"bytes":"e30=e30="}"#,
        br#"{"bytes":"e30-"}"#,
        br#"{"bytes":"e30="} x"#,
        br#"{"bytes":"\ud800"}"#,
        b"\xff",
        b"{\"bytes\":\"\xff\"}",
    ] {
        let decoded = Decoder::default().decode(payload).map(|event| event.json.to_vec());

        assert_eq!(decoded, Err(BadEvent::Chunk), "{}", String::from_utf8_lossy(payload));
    }
    let mut decoder = Decoder::default();
    let decoded = decoder.decode(br#" { "p" : "}" , "b\u0079tes" : "eyJ0eXBlIjoi\u0062\/In0=" } "#);
    assert!(decoded.is_err(), "base64 of what is no JSON");
    let decoded = decoder.decode(br#" { "p" : "}" , "b\u0079tes" : "eyJ0eXBlIjoi\u0062SJ9" } "#);
    assert_eq!(decoded.unwrap().kind.as_deref(), Some("m"));
}

#[test]
fn line_ends_between_tokens_become_spaces() {
    let data = "{\r\n  \"type\": \"m\",\n  \"amazon-bedrock-invocationMetrics\": {\n},\n  \"text\": \"a\\nb\"\n}\n";

    let written = written(data);

    assert_eq!(written, event("m", "{    \"type\": \"m\",      \"text\": \"a\\nb\" } "));
}

#[test]
fn one_decoder_serves_one_event_after_the_other() {
    let (mut decoder, mut out) = (Decoder::default(), BytesMut::new());
    for data in [r#"{"type":"a","long":"aaaaaaaaaaaaaaaaaaaaaaaa"}"#, r#"{"type":"b"}"#] {
        decoder.decode(&chunk(data)).unwrap().write(&mut out);
        assert!(decoder.decode(b"{}").is_err());
    }
    decoder.decode(&chunk("{}")).unwrap().write(&mut out);

    let wanted = "event: a\ndata: {\"type\":\"a\",\"long\":\"aaaaaaaaaaaaaaaaaaaaaaaa\"}\n\nevent: b\ndata: {\"type\":\"b\"}\n\n";
    assert_eq!(out, wanted);
}

#[test]
fn our_own_events_have_the_same_form() {
    let told = error("overloaded_error", "a \"b\"\nc 🦀");

    let text = std::str::from_utf8(&told).unwrap();
    let data = text.strip_prefix("event: error\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
    assert!(!data.contains('\n'));
    let error = json!({"type": "overloaded_error", "message": "a \"b\"\nc 🦀"});
    assert_eq!(
        serde_json::from_str::<Value>(data).unwrap(),
        json!({"type": "error", "error": error})
    );
    assert_eq!(PING, b"event: ping\ndata: {\"type\":\"ping\"}\n\n");
}

/// JSON as text; a line end is there only as a space between tokens.
fn value() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec![
        "0",
        "-0",
        "1e400",
        "1.50",
        "123456789012345678901",
        "true",
        "null",
        r#""""#,
        r#""a\n\/""#,
        r#""\ud83d""#,
        r#""🦀 }]\"""#,
        "[ ]",
        "{\n}",
        r#"{"type":"inner"}"#,
    ]);
    atom.prop_map(str::to_owned).prop_recursive(3, 12, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..3)
            .prop_map(|items| format!("[{}]", items.join(" ,")));
        let object = prop::collection::vec(inner, 0..3).prop_map(|values| {
            let members = values.iter().enumerate().map(|(at, value)| format!("\"k{at}\":{value}"));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        });
        prop_oneof![list, object]
    })
}

proptest! {
    #[test]
    fn unknown_events_and_members_pass_byte_for_byte(
        kind in "[a-z_.🦀 ]{1,12}",
        values in prop::collection::vec(value(), 0..5),
        at in 0..6usize,
        metrics in prop::option::of((0..7usize, value())),
        gap in "[ \n\t]{0,2}",
    ) {
        let mut members: Vec<String> = values.iter().enumerate().map(|(n, value)| format!("\"n{n}\"{gap}:{value}")).collect();
        members.insert(at.min(members.len()), format!(r#""type":"{kind}""#));
        let without = format!("{{{}}}", members.join(","));
        if let Some((at, value)) = metrics {
            members.insert(at.min(members.len()), format!(r#""amazon-bedrock-invocationMetrics":{gap}{value}"#));
        }
        let data = format!("{{{}}}", members.join(","));

        prop_assert_eq!(written(data), event(&kind, &without.replace('\n', " ")));
    }

    #[test]
    fn bytes_of_any_kind_give_whole_events_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>()) {
        let mut data = br#"{"type":"m","a":"b","amazon-bedrock-invocationMetrics":{"c":[1]},"d":{}}"#.to_vec();
        let at = at.index(data.len());
        data.splice(at..(at + 1), bytes.iter().copied().take(2));

        for data in [&data, &bytes] {
            if let Ok(text) = written(data) && !text.is_empty() {
                let (head, json) = text.split_once("\ndata: ").unwrap();
                prop_assert!(head.starts_with("event: ") && !head.contains('\n'));
                let json = json.strip_suffix("\n\n").unwrap();
                prop_assert!(!json.contains(['\n', '\r']) && serde_json::from_str::<IgnoredAny>(json).is_ok());
            }
        }
        prop_assert!(Decoder::default().decode(&bytes).is_err());
    }
}
