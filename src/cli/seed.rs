//! `bedrock_proxy seed`: default prices and, in a database without usage, a year of an invented company's.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use chrono::{Days, NaiveTime, TimeDelta};
use clap::Parser;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{migrate, progress::Teller};
use crate::{
    db::{
        self, Conn, DbError, Pool, Timestamp,
        api_keys::{ApiKeyRecord, CreateError, NewApiKey},
        audit::{Event, Origin},
        levels::Level,
        summaries::{build::Scope, read},
        usage::{self, Inserted, NewUsage},
        users::{NewUser, UserRecord},
    },
    jobs::{Progress, Rules, Work, clean_up, summarise},
    pricing::ledger::{self, Ledger},
    sample::{self, Person, Plan, Sample, Who},
    settings::{LOCAL_PROVIDER, Settings},
};

/// Rows a transaction.
const BATCH: usize = 2000;
/// Days of sample usage after which summaries are built and cleaned up, as the jobs would have.
const DAYS_BETWEEN_JOBS: i64 = 7;
/// Keys of people who are made up are nobody's: a digest of random bytes.
const PEPPER: &str = "sample";

#[derive(Debug, Parser)]
pub struct Args {
    /// How many people.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    people: u32,
    /// How many days, up to now.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// How many calls in all; without it, as many as such people make.
    #[arg(long)]
    calls: Option<u64>,
}

/// # Errors
/// The database's.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<()> {
    let pool = Pool::open(&settings.database)?;
    migrate::apply(&pool, &settings.database).await?;
    let seeded = {
        let mut conn = pool.writer().await?;
        ledger::seed(&mut conn, false, &Origin::operator()).await?
    };
    println!("{} prices added", seeded.added);
    let database = settings.database.shown_url();
    if read::first(&mut pool.reader().await?).await?.is_some() {
        println!("{database} has usage already: no sample usage is added to it");
        return Ok(());
    }
    let rules = Rules::new(settings)?;
    let teller = Teller::new();
    let filled = fill(&pool, &rules, &args.plan(db::now()), &[], &|p| teller.tell(p)).await?;
    drop(teller);
    println!("{} people and {} calls of theirs added to {database}", args.people, filled);
    pool.close();
    Ok(())
}

impl Args {
    fn plan(&self, now: Timestamp) -> Plan {
        let start = now.date().checked_sub_days(Days::new(u64::from(self.days)));
        Plan {
            people: self.people as usize,
            start: start.unwrap_or(now.date()),
            end: now,
            calls: self.calls,
            seed: 1,
        }
    }
}

/// Who somebody is.
pub struct Identity<'a> {
    pub provider: &'a str,
    pub subject: &'a str,
    pub email: &'a str,
    pub display_name: &'a str,
    pub admin: bool,
}

/// Adds the people of a plan and their calls, with the summaries that would be there had the jobs run all the time.
/// `instead` take the places of the plan's first people. Answers the number of calls.
///
/// # Errors
/// The database's.
pub async fn fill(
    pool: &Pool,
    rules: &Rules,
    plan: &Plan,
    instead: &[Identity<'_>],
    tell: &dyn Fn(Progress<'_>),
) -> anyhow::Result<u64> {
    let mut who = Vec::with_capacity(plan.people);
    for (number, person) in sample::people(plan).into_iter().enumerate() {
        let invented = Identity {
            provider: LOCAL_PROVIDER,
            subject: &person.email,
            email: &person.email,
            display_name: &person.display_name,
            admin: false,
        };
        let identity = instead.get(number).unwrap_or(&invented);
        let one = create(&mut pool.writer().await?, &person, identity, plan).await?;
        who.push(one);
        tell(Progress { doing: "people", done: number as u64, of: Some(plan.people as u64) });
    }
    let work =
        Work { pool, fence: None, stop: CancellationToken::new(), progress: &|_progress| {} };
    // Rows are kept, however old: they are what is being looked at.
    let kept: Vec<_> =
        rules.retention().into_iter().filter(|(level, _)| *level != Level::Records).collect();
    let ledger = Ledger::read(&mut pool.reader().await?).await?;
    let sample = Sample::new(plan, &who);
    let calls = sample.calls();
    let mut jobs_at = plan.start.and_time(NaiveTime::MIN);
    let mut batch: Vec<NewUsage> = Vec::with_capacity(BATCH);
    let (mut done, mut last_used) = (0, HashMap::new());
    for mut row in sample {
        (row.cost_nano_usd, row.price_id) = ledger.price(&row);
        let time = row.request_time;
        if let Some(id) = row.key_id {
            last_used.insert(id, time);
        }
        batch.push(row);
        if batch.len() == BATCH {
            done += write(pool, &mut batch, &ledger).await?;
            tell(Progress { doing: "calls", done, of: Some(calls) });
            if time > jobs_at {
                jobs(&work, rules, &kept, jobs_at).await?;
                jobs_at =
                    time.checked_add_signed(TimeDelta::days(DAYS_BETWEEN_JOBS)).unwrap_or(time);
            }
        }
    }
    done += write(pool, &mut batch, &ledger).await?;
    jobs(&work, rules, &kept, plan.end).await?;
    for (id, time) in last_used {
        ApiKeyRecord::touch(&mut pool.writer().await?, id, time).await?;
    }
    Ok(done)
}

async fn write(pool: &Pool, batch: &mut Vec<NewUsage>, ledger: &Ledger) -> anyhow::Result<u64> {
    if batch.is_empty() {
        return Ok(0);
    }
    let rows = Arc::new(std::mem::replace(batch, Vec::with_capacity(BATCH)));
    let mut conn = pool.writer().await?;
    match usage::insert_all(&mut conn, rows, ledger.version).await? {
        Inserted::Rows(count) => Ok(count as u64),
        Inserted::OldPrices => anyhow::bail!("the prices changed meanwhile; begin anew"),
    }
}

async fn jobs(
    work: &Work<'_>,
    rules: &Rules,
    kept: &[(Level, u32)],
    now: Timestamp,
) -> anyhow::Result<()> {
    summarise::summarise(work, &rules.periods, 0, &Scope::default(), now).await?;
    clean_up::clean_up(work, kept, now, &Origin::operator()).await?;
    Ok(())
}

async fn create(
    conn: &mut Conn,
    person: &Person,
    identity: &Identity<'_>,
    plan: &Plan,
) -> Result<Who, DbError> {
    // Before anything else of the plan: the audit log is in the order of time.
    let now = plan.start.and_time(NaiveTime::MIN);
    let origin = Origin::operator();
    let Identity { provider, subject, email, display_name, admin } = *identity;
    let new = NewUser {
        provider,
        subject,
        email: Some(email),
        email_verified: true,
        display_name: Some(display_name),
        state: if person.left.is_some() { "disabled" } else { "active" },
        created_at: person.joined,
        updated_at: person.left.unwrap_or(person.joined),
        admin,
    };
    let event = Event {
        provider: Some(provider),
        object: format!("user:{provider}/{subject}"),
        metadata: json!({ "email": email, "sample": true }),
        ..Event::new(now, "user_created", &origin)
    };
    let user = UserRecord::create(conn, &new, event).await?;
    let mut key_ids = Vec::new();
    for name in person.keys {
        let mut digest = [0; 32];
        let random = SystemRandom::new().fill(&mut digest);
        random.map_err(|_| DbError::Unavailable("there are no random bytes".into()))?;
        let hint = hex::encode(&digest[..2]);
        let new = NewApiKey {
            user_id: user.id,
            digest: &digest,
            pepper_id: PEPPER,
            hint: &hint,
            name,
            created_at: person.joined,
            expires_at: None,
        };
        let event = Event {
            user_id: Some(user.id),
            metadata: json!({ "name": name, "sample": true }),
            ..Event::new(now, "key_created", &origin)
        };
        match ApiKeyRecord::create(conn, &new, i64::MAX, None, event).await {
            Ok(key) => key_ids.push(key.id),
            Err(CreateError::Db(error)) => return Err(error),
            // Whoever has left makes no more keys; the calls then come without one.
            Err(_) => {}
        }
    }
    Ok(Who { user_id: user.id, key_ids })
}
