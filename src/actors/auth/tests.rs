use super::*;
use crate::{
    db::Timestamp,
    settings::{Need, Settings},
};

const NOW: fn() -> Timestamp = db::now;

fn settings() -> Settings {
    let secret =
        ("BEDROCK_JWT__SECRET".to_owned(), "a-secret-for-this-test-with-32-bytes".to_owned());
    let memory = ("BEDROCK_DATABASE__ENABLED".to_owned(), "false".to_owned());
    Settings::from_layers(None, [secret, memory].into_iter(), Need::Service).unwrap()
}

async fn actor() -> AuthActor {
    let settings = settings();
    let known = Arc::new(Known::new(&settings.cache, &settings.auth));
    let keys = Arc::new(Keys::new(&settings).unwrap());
    let pool = Pool::open(&settings.database).unwrap();
    let policy = Policy::current(&settings);
    let tidy_every = Duration::from_secs(settings.cache.cleanup_interval);
    let metrics = Metrics::new().unwrap();
    let gauge = metrics.live_streams.clone();
    let supervised = pool.clone();
    let cache = TypedCache::in_memory(100, 1 << 20, &keys.cache, metrics.clone());
    let shared = cache.clone();
    let streams = Place::start(actix::Arbiter::new().handle(), move || {
        StreamSupervisor::new(supervised.clone(), shared.clone(), "here".into(), gauge.clone())
    });
    AuthActor::new(pool, cache, keys, policy, known, streams, tidy_every, metrics)
}

fn loaded(ends: Option<Timestamp>, afresh: bool) -> Result<Arc<Loaded>, AuthError> {
    let credential = CredentialId::ApiKey(3);
    let identity = Identity { user_id: 7, credential, admin: false, ends };
    let checked = Checked { identity, re_digest: None, last_used: None };
    Ok(Arc::new(Loaded { checked, afresh }))
}

fn good(ends: Option<Timestamp>) -> Result<Arc<Loaded>, AuthError> {
    loaded(ends, true)
}

#[actix_rt::test]
async fn what_others_checked_holds_as_long_as_the_database_confirms_it() {
    let mut actor = actor().await;
    let given = Credential::parse(&format!("SSOK_{}", "a".repeat(32))).unwrap();
    assert_eq!(actor.cached_from(&given), None, "nothing is known of the database yet");
    actor.remember([5; 32], &loaded(None, false), actor.generation);
    actor.known.confirm(1);
    assert!(matches!(actor.known.get(&[5; 32], NOW()), Lookup::Good { .. }));

    actor.saw_epoch(5, 1);
    assert_eq!(actor.cached_from(&given), Some(5));
    actor.told = 7;
    assert_eq!(actor.cached_from(&given), Some(7), "another instance knows of more");

    let mut settings = settings();
    settings.auth.identity_max_age_seconds = 0;
    actor.known = Arc::new(Known::new(&settings.cache, &settings.auth));
    actor.known.confirm(1);
    while actor.known.clock() < 2 {
        std::hint::spin_loop();
    }
    assert_eq!(actor.cached_from(&given), None, "that is too long ago");
    actor.remember([6; 32], &loaded(None, false), actor.generation);
    assert!(matches!(actor.known.get(&[6; 32], NOW()), Lookup::Unknown));
}

#[actix_rt::test]
async fn only_what_is_new_is_told() {
    let mut actor = actor().await;
    assert_eq!(actor.saw_epoch(5, 0), None, "the first look");
    assert_eq!(actor.saw_epoch(5, 0), None);
    assert_eq!(actor.saw_epoch(6, 0), Some(News::AccessTaken { epoch: 6 }));
    actor.told = 8;
    assert_eq!(actor.saw_epoch(8, 0), None, "another instance told of it");
}

#[actix_rt::test]
async fn a_check_that_began_before_access_was_taken_away_is_not_remembered_after() {
    let mut actor = actor().await;
    let (digest, began) = ([1; 32], actor.generation);
    actor.saw_epoch(5, 0);
    let later = actor.generation;

    actor.remember(digest, &good(None), began);
    assert!(matches!(actor.known.get(&digest, NOW()), Lookup::Unknown));

    actor.remember(digest, &good(None), later);
    assert!(matches!(actor.known.get(&digest, NOW()), Lookup::Good { .. }));
    actor.saw_epoch(5, 0);
    assert!(
        matches!(actor.known.get(&digest, NOW()), Lookup::Good { .. }),
        "nothing was taken away"
    );
    actor.saw_epoch(6, 0);
    assert!(matches!(actor.known.get(&digest, NOW()), Lookup::Unknown));
}

#[actix_rt::test]
async fn an_identity_ends_with_its_credential() {
    let actor = actor().await;
    let end = NOW() + chrono::TimeDelta::seconds(60);

    actor.remember([2; 32], &good(Some(end)), actor.generation);

    assert!(matches!(
        actor.known.get(&[2; 32], end - chrono::TimeDelta::milliseconds(1)),
        Lookup::Good { .. }
    ));
    assert!(matches!(actor.known.get(&[2; 32], end), Lookup::Unknown));
}

#[actix_rt::test]
async fn a_refusal_is_remembered_and_a_database_that_is_away_is_not() {
    let actor = actor().await;
    let away = DbError::Unavailable("away".into());

    actor.remember([3; 32], &Err(AuthError::Refused(Refusal::Unknown)), actor.generation);
    actor.remember([4; 32], &Err(AuthError::from(away)), actor.generation);

    assert!(matches!(actor.known.get(&[3; 32], NOW()), Lookup::Refused(Refusal::Unknown)));
    assert!(matches!(actor.known.get(&[4; 32], NOW()), Lookup::Unknown));
}

#[actix_rt::test]
async fn many_who_ask_at_once_share_one_check() {
    let mut actor = actor().await;
    let given = Credential::parse(&format!("SSOK_{}", "a".repeat(32))).unwrap();

    let (first, second) = (actor.load(&given), actor.load(&given));

    assert!(first.ptr_eq(&second));
    assert_eq!(actor.loading.len(), 1);
}
