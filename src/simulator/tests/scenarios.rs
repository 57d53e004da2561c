//! Scenarios which play back what they are given, take their time, or fail at first.

use super::*;

fn echo(events: &str, more: &str) -> String {
    format!("@sim:echo hex={}{more}", hex::encode(events))
}

#[actix_web::test]
async fn echoed_events_are_played_byte_for_byte() {
    let simulator = simulator().await;
    let events = "{ \"type\":\"content_block_start\", \"n\": 1.0e0,\"x\":\"\\u00e9 é \u{1F600}\"}\n{\"type\":\"of_tomorrow\"}";
    let raw = |answer: &Answer| {
        let decode = |frame: &(String, String, Value)| {
            String::from_utf8(STANDARD.decode(frame.2["bytes"].as_str().unwrap()).unwrap()).unwrap()
        };
        answer.frames().iter().map(decode).collect::<Vec<_>>()
    };

    let wrapped = stream(&simulator, &echo(events, ""));
    let alone = stream(&simulator, &echo(events, " wrap=0"));
    let whole = invoke(&simulator, &echo(" {\"a\":1.0}\n", ""));

    let lines: Vec<_> = events.lines().collect();
    assert_eq!(raw(&alone), lines);
    let wrapped = raw(&wrapped);
    assert_eq!(wrapped[1..3], lines);
    assert!(wrapped[0].contains("message_start") && wrapped[3].contains("message_delta"));
    assert!(wrapped.len() == 5 && wrapped[4].contains("invocationMetrics"));
    assert_eq!(whole.body, b" {\"a\":1.0}\n");
    assert!(whole.header("x-amzn-bedrock-input-token-count").is_some());
    let large = format!("{{\"a\":\"{}\"}}", "é".repeat(200_000));
    assert_eq!(raw(&stream(&simulator, &echo(&large, " wrap=0"))), [large]);
    for wrong in ["@sim:echo", "@sim:echo hex=abc", "@sim:echo hex=ff"] {
        assert_eq!(stream(&simulator, wrong).status, 400, "{wrong}");
    }
}

#[actix_web::test]
async fn a_head_comes_before_a_late_event_and_a_pause_in_between() {
    let simulator = simulator().await;
    let host = simulator.address().to_string();
    let path = format!("{CLAUDE}/invoke-with-response-stream");
    let timed = |text: &str, bytes_before: usize| {
        let body = hello(text).to_string();
        let headers = signed(&host, &path, body.as_bytes());
        let begun = Instant::now();
        let mut socket = open(&simulator, &path, &headers, body.as_bytes());
        let mut seen = Vec::new();
        let (mut first, mut piece) = (None, [0; 4096]);
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            let read = socket.read(&mut piece).unwrap();
            assert!(read > 0, "{text}");
            seen.extend_from_slice(&piece[..read]);
            first = first.or_else(|| (seen.len() > bytes_before).then(|| begun.elapsed()));
        }
        (first.unwrap(), begun.elapsed())
    };
    let silence = Duration::from_millis(400);

    for text in ["@sim:late delay_ms=400", "@sim:pause after=3 delay_ms=400"] {
        // More than the head, or more than the head and an event.
        let before = if text.contains("late") { 0 } else { 400 };
        let (first, all) = timed(text, before);
        assert!(first < silence && all >= silence && all < silence * 3, "{text} {first:?} {all:?}");
    }
    assert_eq!(stream(&simulator, "@sim:pause after=3 delay_ms=10").frames().len(), 5 + 11);
}

#[actix_web::test]
async fn a_member_is_refused_until_it_is_gone() {
    let simulator = simulator().await;
    let path = format!("{CLAUDE}/invoke");
    let mut body = hello("@sim:refuse field=metadata__user_id");
    assert_eq!(post(&simulator, &path, &body).status, 200);

    body["metadata"] = json!({"user_id": "x"});

    let refused = post(&simulator, &path, &body);
    let text = "metadata.user_id: Extra inputs are not permitted";
    assert_eq!((refused.status, &refused.json()["message"]), (400, &json!(text)));
    assert_eq!(invoke(&simulator, "@sim:refuse").status, 400);
}

#[actix_web::test]
async fn the_first_calls_of_a_key_fail() {
    let simulator = simulator().await;
    let statuses = |text: &str| [(); 3].map(|()| invoke(&simulator, text).status);

    assert_eq!(statuses("@sim:flaky times=2 key=a"), [429, 429, 200]);
    assert_eq!(statuses("@sim:flaky key=b code=ServiceUnavailableException"), [503, 200, 200]);
    let text = "@sim:flaky key=c retry_after=0";
    assert_eq!(invoke(&simulator, text).header("retry-after"), Some("0"));
}
