use std::{collections::BTreeMap, os::unix::fs::symlink};

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;
use crate::cli::client::tokens::{
    ChoiceError,
    tests::{services, time, url},
};

const AT_ONCE: Duration = Duration::from_millis(1);

fn place() -> (tempfile::TempDir, TokenFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile(folder.path().join("new/folder/tokens.json"));
    (folder, file)
}

async fn written(hosts: &[&str]) -> (tempfile::TempDir, TokenFile) {
    let (folder, file) = place();
    file.lock(AT_ONCE).await.unwrap().write(&services(hosts)).unwrap();
    (folder, file)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_environment_names_the_place() {
    let placed = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<String, PathBuf> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        TokenFile::placed(|name| variables.get(name).cloned()).map(|file| file.0)
    };
    let xdg = ("XDG_CONFIG_HOME", "/xdg");
    let home = ("HOME", "/home/ada");

    assert_eq!(
        placed(&[("BEDROCK_PROXY_TOKENS", "t.json"), xdg, home]).unwrap(),
        Path::new("t.json")
    );
    assert_eq!(placed(&[xdg, home]).unwrap(), Path::new("/xdg/bedrock-proxy/tokens.json"));
    let usual = Path::new("/home/ada/.config/bedrock-proxy/tokens.json");
    assert_eq!(placed(&[home]).unwrap(), usual);
    assert_eq!(placed(&[("XDG_CONFIG_HOME", "relative"), home]).unwrap(), usual);
    assert!(matches!(placed(&[]), Err(StoreError::NoPlace)));
}

#[actix_web::test]
async fn what_was_written_is_read_and_only_the_owner_may() {
    let (_folder, file) = written(&["a.example.com", "b.example.com"]).await;

    let read = file.read().unwrap();

    let (_, found) = read.choose(Some(&url("b.example.com"))).unwrap();
    assert_eq!(found.access_token.expose_secret(), "b.example.com");
    assert_eq!(found.refresh_token.expose_secret(), "SSOR_b.example.com");
    assert_eq!(found.access_expires_at, time("2026-11-21T10:00:00Z"));
    assert_eq!(mode(file.path()), 0o600);
    assert_eq!(mode(file.directory()), 0o700);
    assert_eq!(mode(&file.beside("lock")), 0o600);
}

#[actix_web::test]
async fn the_form_is_the_documented_one() {
    let (_folder, file) = written(&["a.example.com"]).await;

    let content: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();

    assert_eq!(
        content,
        json!({ "version": 1, "services": { "https://a.example.com": {
            "access_token": "a.example.com",
            "access_issued_at": "2026-11-21T09:00:00Z",
            "access_expires_at": "2026-11-21T10:00:00Z",
            "refresh_token": "SSOR_a.example.com",
            "refresh_expires_at": "2026-12-21T09:00:00Z",
            "checked_at": "2026-11-21T09:00:00Z",
        }}})
    );
}

#[actix_web::test]
async fn a_file_of_an_older_or_a_later_release_is_read() {
    let (_folder, file) = written(&["a.example.com"]).await;
    let mut content: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
    let tokens = &mut content["services"]["https://a.example.com"];
    tokens.as_object_mut().unwrap().remove("checked_at");
    tokens["of_a_later_release"] = json!({ "a": [1] });
    content["of_a_later_release"] = json!(true);
    fs::write(file.path(), content.to_string()).unwrap();

    let read = file.read().unwrap();

    assert_eq!(read.choose(None).unwrap().1.checked_at, None);
}

#[actix_web::test]
async fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
    let (_folder, file) = written(&["a.example.com", "b.example.com"]).await;
    fs::write(file.beside("new"), "left by a process that was killed").unwrap();
    let reader = File::open(file.path()).unwrap();

    file.lock(AT_ONCE).await.unwrap().write(&services(&["c.example.com"])).unwrap();

    // Whoever had it open still reads the old one, whole.
    let old: Value = serde_json::from_reader(reader).unwrap();
    assert_eq!(old["services"].as_object().unwrap().len(), 2);
    assert_eq!(file.read().unwrap().choose(None).unwrap().0, &url("c.example.com"));
    assert_eq!(mode(file.path()), 0o600);
    assert!(!file.beside("new").exists());
}

#[actix_web::test]
async fn a_temporary_name_that_is_a_link_is_not_followed() {
    let (folder, file) = written(&["a.example.com"]).await;
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "untouched").unwrap();
    symlink(&elsewhere, file.beside("new")).unwrap();

    file.lock(AT_ONCE).await.unwrap().write(&services(&["b.example.com"])).unwrap();

    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
    assert!(!fs::symlink_metadata(file.path()).unwrap().is_symlink());
}

#[test]
fn no_file_is_no_service() {
    let (_folder, file) = place();

    assert_eq!(file.read().unwrap().choose(None).unwrap_err(), ChoiceError::None);
}

#[actix_web::test]
async fn a_file_that_others_could_read_is_refused_with_the_fix() {
    let (_folder, file) = written(&["a.example.com"]).await;
    for mode in [0o640, 0o604, 0o620, 0o666, 0o601] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = file.read().unwrap_err();
        assert!(matches!(error, StoreError::Open(_)), "{mode:o}");
        let fix = format!("chmod 600 {}", file.path().display());
        assert!(error.to_string().ends_with(&fix), "{error}");
    }
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(file.read().is_ok());
}

#[actix_web::test]
async fn a_link_a_folder_and_a_pipe_are_refused() {
    let (folder, file) = written(&["a.example.com"]).await;
    let link = TokenFile(folder.path().join("link.json"));
    symlink(file.path(), &link.0).unwrap();
    assert!(matches!(link.read(), Err(StoreError::Link(_))));

    let directory = TokenFile(folder.path().join("new"));
    assert!(matches!(directory.read(), Err(StoreError::NotAFile(_))));

    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(matches!(TokenFile(pipe).read(), Err(StoreError::NotAFile(_))));
}

#[actix_web::test]
async fn a_file_of_another_user_is_refused() {
    let (_folder, file) = written(&["a.example.com"]).await;
    // Only root can give a file away.
    if std::os::unix::fs::chown(file.path(), Some(65534), None).is_err() {
        return;
    }

    assert!(matches!(file.read(), Err(StoreError::Foreign(_))));
}

#[actix_web::test]
async fn a_damaged_file_is_named_and_none_of_it_is_shown() {
    let (_folder, file) = written(&["a.example.com"]).await;
    for content in [
        "",
        "{",
        "SSOR_secret",
        r#"{"version":1}"#,
        r#"{"version":"SSOR_secret"}"#,
        r#"{"version":1,"services":"SSOR_secret"}"#,
        r#"{"version":1,"services":{"https://a.example.com":{"access_token":"x"}}}"#,
        r#"{"version":1,"services":{"http://not.local":{}}}"#,
    ] {
        fs::write(file.path(), content).unwrap();
        let error = file.read().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{content}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("tokens.json") && !shown.contains("SSOR_"), "{shown}");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), content);
    }
}

#[actix_web::test]
async fn an_endless_file_is_not_read_to_its_end() {
    let (_folder, file) = written(&["a.example.com"]).await;
    fs::write(file.path(), " ".repeat(2 << 20)).unwrap();

    assert!(matches!(file.read(), Err(StoreError::Damaged { .. })));
}

#[actix_web::test]
async fn a_file_of_a_newer_version_says_so() {
    let (_folder, file) = written(&["a.example.com"]).await;
    fs::write(file.path(), r#"{"version":2,"accounts":[]}"#).unwrap();

    let error = file.read().unwrap_err();

    assert!(matches!(error, StoreError::Version { version: 2, .. }), "{error}");
}

#[actix_web::test]
async fn a_damaged_file_can_be_moved_aside() {
    let (_folder, file) = written(&["a.example.com"]).await;
    fs::write(file.path(), "{").unwrap();

    let aside = file.lock(AT_ONCE).await.unwrap().move_aside().unwrap();

    assert!(aside.ends_with("tokens.json.damaged"));
    assert_eq!(fs::read_to_string(aside).unwrap(), "{");
    assert_eq!(file.read().unwrap().choose(None).unwrap_err(), ChoiceError::None);
}

#[actix_web::test]
async fn one_holds_the_lock_and_the_next_gets_it_afterwards() {
    let (_folder, file) = place();
    let first = file.lock(AT_ONCE).await.unwrap();
    assert!(matches!(file.lock(AT_ONCE).await, Err(StoreError::Busy(_))));

    let waiting = {
        let file = file.clone();
        tokio::spawn(async move { file.lock(LOCK_WAIT).await.map(drop) })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(first);

    assert!(waiting.await.unwrap().is_ok());
    assert!(file.beside("lock").exists());
}
