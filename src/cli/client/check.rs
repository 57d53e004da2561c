//! Whether the service still takes an access token. A session may end before its tokens do: an admin ends it, or the
//! secret that signs the tokens is another now.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;

use super::{
    ServiceUrl, Trust,
    service::{Service, ServiceError},
    store::{StoreError, TokenFile},
};

/// Whoever holds the lock longer is refreshing, and notes what it learns itself.
const NOTE_WAIT: Duration = Duration::from_millis(500);

/// Asks the service, and notes in the file if it takes the token. `false` only if the service refuses it: one that
/// cannot be asked, or is in no state to answer, says nothing about the token.
pub async fn is_taken(
    file: &TokenFile,
    url: &ServiceUrl,
    access_token: &SecretString,
    trust: &Trust,
) -> bool {
    let Ok(service) = Service::new(url.clone(), trust.ca_file.as_deref()) else { return true };
    let asked_at = Utc::now();
    match service.me(access_token).await {
        Ok(_) => {
            // Without the note, the next process asks as well.
            let _best_effort = note(file, url, access_token, asked_at).await;
            true
        }
        Err(ServiceError::Refused { status: 401, .. }) => false,
        Err(_) => true,
    }
}

async fn note(
    file: &TokenFile,
    url: &ServiceUrl,
    access_token: &SecretString,
    asked_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let locked = file.lock(NOTE_WAIT).await?;
    // Read under the lock: another process may have signed in, out or refreshed meanwhile.
    let mut services = locked.read()?;
    if services.note_checked(url, access_token, asked_at) {
        locked.write(&services)?;
    }
    Ok(())
}
