use super::*;

const STATE: &str = "a-state_of-43-characters-as-base64url-gives";

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n\r\n").into_bytes()
}

fn code(head: &[u8]) -> Result<String, Wrong> {
    match judge(head, STATE)? {
        Callback::Code(code) => Ok(code.expose_secret().to_owned()),
        Callback::Refused(why) => panic!("refused: {why}"),
    }
}

#[test]
fn the_callback_gives_its_code() {
    assert_eq!(code(&get(&format!("/callback?code=abc&state={STATE}"))), Ok("abc".to_owned()));
    assert_eq!(
        code(&get(&format!("/callback?state={STATE}&code=a%2Bb+c"))),
        Ok("a+b c".to_owned())
    );
    assert_eq!(code(&get(&format!("/callback?x=1&code=abc&state={STATE}"))), Ok("abc".to_owned()));
}

#[test]
fn a_refusal_is_a_callback_too() {
    let head = get(&format!("/callback?error=access_denied%1b%0a&state={STATE}"));

    let Ok(Callback::Refused(why)) = judge(&head, STATE) else { panic!("no refusal") };

    assert_eq!(why, "access_denied");
}

#[test]
fn another_place_or_method_is_not_found() {
    let target = format!("/callback?code=abc&state={STATE}");
    for head in [
        get("/"),
        get("/favicon.ico"),
        get(&format!("/callback/?code=abc&state={STATE}")),
        get(&format!("//callback?code=abc&state={STATE}")),
        get(&format!("http://127.0.0.1/callback?code=abc&state={STATE}")),
        format!("HEAD {target} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("POST {target} HTTP/1.1\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        format!("OPTIONS {target} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("get {target} HTTP/1.1\r\n\r\n").into_bytes(),
    ] {
        assert_eq!(code(&head), Err(Wrong::Place), "{}", String::from_utf8_lossy(&head));
    }
}

#[test]
fn without_the_state_nothing_is_taken() {
    for target in [
        "/callback".to_owned(),
        "/callback?code=abc".to_owned(),
        "/callback?code=abc&state=".to_owned(),
        "/callback?code=abc&state=another".to_owned(),
        format!("/callback?code=abc&state={STATE}x"),
        format!("/callback?code=abc&state={STATE}&state={STATE}"),
        format!("/callback?code=abc&state={STATE}&state=another"),
        "/callback?error=access_denied&state=another".to_owned(),
        "/callback?error=access_denied".to_owned(),
    ] {
        assert!(matches!(judge(&get(&target), STATE), Err(Wrong::Request)), "{target}");
    }
}

#[test]
fn a_callback_needs_one_code_or_one_error() {
    for query in ["", "&code=", "&code=a&code=b", "&code=a&error=b", "&error=a&error=b", "&codes=a"]
    {
        let target = format!("/callback?state={STATE}{query}");
        assert!(matches!(judge(&get(&target), STATE), Err(Wrong::Request)), "{target}");
    }
}

#[test]
fn what_is_not_http_is_a_bad_request() {
    let target = format!("/callback?code=abc&state={STATE}");
    for head in [
        Vec::new(),
        b"\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        format!("GET {target}\r\n\r\n").into_bytes(),
        format!("GET {target} HTTP/2.0\r\n\r\n").into_bytes(),
        format!("GET  {target} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("GET {target} HTTP/1.1 x\r\n\r\n").into_bytes(),
        // Cut off before the end of the head.
        format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n").into_bytes(),
        format!("GET {target} HTTP/1.1").into_bytes(),
    ] {
        assert_eq!(code(&head), Err(Wrong::Request), "{}", String::from_utf8_lossy(&head));
    }
}

#[test]
fn a_huge_line_or_head_is_too_long() {
    let line = get(&format!("/callback?code={}&state={STATE}", "a".repeat(LONGEST_LINE)));
    let endless = vec![b'a'; LONGEST_HEAD];
    let mut cookies = get(&format!("/callback?code=abc&state={STATE}"));
    let end = cookies.len() - 2;
    cookies.splice(end..end, format!("Cookie: {}\r\n", "a".repeat(20_000)).into_bytes());

    assert_eq!(code(&line), Err(Wrong::TooLong));
    assert_eq!(code(&endless), Err(Wrong::TooLong));
    assert_eq!(code(&cookies), Ok("abc".to_owned()));
}

#[test]
fn a_page_runs_nothing_and_is_kept_nowhere() {
    let page = page("200 OK", "You are signed in.");

    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    for header in [
        &format!("Content-Length: {}", body.len()),
        "Content-Security-Policy: default-src 'none';",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Referrer-Policy: no-referrer",
    ] {
        assert!(head.contains(header), "{header}");
    }
    assert!(body.contains("You are signed in. You can close this window."));
    assert!(!body.contains("<script") && !body.contains("style"));
}

async fn ask(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[actix_web::test]
async fn wrong_requests_and_silent_connections_hold_nothing_up() {
    let loopback = Loopback::bind().await.unwrap();
    let port = loopback.port;
    assert_eq!(loopback.redirect_uri(), format!("http://127.0.0.1:{port}/callback"));
    let waiting =
        tokio::spawn(
            async move { loopback.callback(&STATE.into(), Duration::from_secs(20)).await },
        );
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();

    assert!(ask(port, &get("/favicon.ico")).await.starts_with("HTTP/1.1 404 "));
    assert!(ask(port, &get("/callback?code=abc&state=wrong")).await.starts_with("HTTP/1.1 400 "));
    assert!(ask(port, &vec![b'a'; LONGEST_HEAD]).await.starts_with("HTTP/1.1 431 "));
    assert!(!waiting.is_finished());
    let answer = ask(port, &get(&format!("/callback?code=abc&state={STATE}"))).await;

    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("You are signed in."));
    let Some(Callback::Code(code)) = waiting.await.unwrap() else { panic!("no code") };
    assert_eq!(code.expose_secret(), "abc");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[actix_web::test]
async fn waiting_ends() {
    let loopback = Loopback::bind().await.unwrap();

    assert!(loopback.callback(&STATE.into(), Duration::from_millis(50)).await.is_none());
}
