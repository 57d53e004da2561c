//! What ends with time, with the time as an argument.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::simulator::identity::grants::{ACCESS_LIFE, CODE_LIFE, CodeRefused, SignIn, Surface};

fn sign_in(surface: Surface) -> SignIn {
    SignIn {
        surface,
        subject: "1001".to_owned(),
        scopes: vec!["openid".to_owned()],
        offline: true,
        nonce: None,
        redirect_uri: CALLBACK.to_owned(),
        challenge: None,
        fault: None,
        at: DateTime::UNIX_EPOCH,
    }
}

#[test]
fn a_code_lives_for_a_minute() {
    let (mut grants, start) = (Grants::default(), Utc::now());
    let in_time = grants.code(sign_in(Surface::OpenId), start);
    let too_late = grants.code(sign_in(Surface::OpenId), start);

    let redeemed = grants.redeem(&in_time, start + CODE_LIFE - TimeDelta::milliseconds(1));
    let refused = grants.redeem(&too_late, start + CODE_LIFE);

    assert!(redeemed.is_ok());
    assert_eq!(refused.unwrap_err(), CodeRefused::Expired);
}

#[test]
fn an_access_token_lives_for_an_hour_and_one_of_github_for_ever() {
    let (mut grants, start) = (Grants::default(), Utc::now());
    let mut token = |surface| {
        let code = grants.code(sign_in(surface), start);
        let sign_in = grants.redeem(&code, start).unwrap();
        grants.access_token(&sign_in, Vec::new(), start)
    };
    let (openid, github) = (token(Surface::OpenId), token(Surface::GitHub));

    assert!(grants.access(&openid, start + ACCESS_LIFE - TimeDelta::milliseconds(1)).is_some());
    assert!(grants.access(&openid, start + ACCESS_LIFE).is_none());
    assert!(grants.access(&github, start + ACCESS_LIFE * 10_000).is_some());
}

#[test]
fn the_oldest_codes_make_room_for_new_ones() {
    let (mut grants, start) = (Grants::default(), Utc::now());
    let oldest = grants.code(sign_in(Surface::OpenId), start);

    let newest = (0..25_000).map(|_| grants.code(sign_in(Surface::OpenId), start)).last().unwrap();

    assert_eq!(grants.redeem(&oldest, start).unwrap_err(), CodeRefused::Unknown);
    assert!(grants.redeem(&newest, start).is_ok());
}
