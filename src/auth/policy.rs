//! Who may come in, and who is an admin: the rules that a reload of the settings puts others in the place of, while the
//! service runs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{AdminRule, email::AllowedDomains};
use crate::settings;

pub struct Policy {
    pub admins: AdminRule,
    pub domains: AllowedDomains,
}

/// The policy as it is now. `AuthActor` alone puts another in its place.
pub type CurrentPolicy = Arc<ArcSwap<Policy>>;

impl Policy {
    pub fn new(
        admin: &settings::Admin,
        oauth: &settings::oauth::OAuth,
        auth: &settings::Auth,
    ) -> Self {
        Self {
            admins: AdminRule::new(admin, oauth),
            domains: AllowedDomains::new(&auth.allowed_email_domains),
        }
    }

    /// As the settings say at the start.
    pub fn current(settings: &settings::Settings) -> CurrentPolicy {
        let policy = Self::new(&settings.admin, &settings.oauth, &settings.auth);
        Arc::new(ArcSwap::from_pointee(policy))
    }
}
