//! Sums of what was asked for, and their parts by model, person, region, key or day.

use std::collections::BTreeMap;

use super::{
    super::figures::{self, ByModel, Figure, Part, Range, Span},
    asked::{Asked, GroupBy, Question},
    rows::{SIGNED_IN, key_name},
};
use crate::{
    db::{
        self, Conn,
        api_keys::ApiKeyRecord,
        levels::Levels,
        summaries::{
            Measures, people,
            read::{self, Dimension, Group, Groups},
        },
        usage::{self, Filter},
        users::UserRecord,
    },
    routes::error::ApiError,
    templates::show,
};

/// So many calls at most are added up to tell what those of one outcome used.
const MOST_ADDED_UP: i64 = 2_000;
/// People that a table has a row each for.
const MOST_PEOPLE: i64 = 40;

pub(super) struct Sums {
    pub total: Measures,
    pub figure: Figure,
    pub group: &'static str,
    pub parts: Vec<Part>,
    /// Why there are no parts.
    pub no_parts: Option<&'static str>,
}

pub(super) async fn from_summaries(
    conn: &mut Conn,
    levels: &Levels,
    (asked, path): (&Asked, &str),
    question: &Question,
    range: Range,
) -> Result<Sums, ApiError> {
    let models = ByModel::read(conn, levels, question.selection(&[]), range).await?;
    let total = models.total();
    let whole = total.cost_nano_usd;
    let narrowed =
        |name: &str, value: &str| Some(asked.href(path, &[(name, Some(value)), ("cursor", None)]));
    let mut no_parts = None;
    let span = (range.start, range.end);
    let parts = match question.group {
        GroupBy::Model => by_model(&models, &narrowed),
        GroupBy::Day => by_day(&models, asked, path),
        GroupBy::Region => {
            let selection = question.selection(&[Dimension::Region]);
            let groups = read::total(conn, levels, &selection, span.0, span.1).await?;
            let groups =
                groups.into_iter().map(|(group, sums)| (group.region.unwrap_or_default(), sums));
            sorted(groups.collect(), whole, |name| narrowed("region", name))
        }
        GroupBy::Key if question.filter.user_id.is_none() => {
            no_parts = Some("Keys belong to people: ask for a person to see theirs.");
            Vec::new()
        }
        GroupBy::Key => {
            let selection = question.selection(&[Dimension::Key]);
            let groups = read::total(conn, levels, &selection, span.0, span.1).await?;
            keys(conn, groups, whole, &narrowed).await?
        }
        GroupBy::Person => match (question.filter.user_id, &question.filter) {
            (Some(user_id), _) => {
                let name = UserRecord::names(conn, &[user_id]).await?.remove(&user_id);
                let href = Some(format!("/admin/users/{user_id}"));
                let name = name.unwrap_or_else(|| format!("person {user_id}"));
                vec![Part::new(name, href, &total, whole)]
            }
            (None, Filter { model: None, region: None, .. }) => {
                spenders(conn, levels, span, &total, &narrowed).await?
            }
            _ => {
                no_parts = Some(
                    "Who used one model or region is not summed up for everybody: ask for a person, or export the calls.",
                );
                Vec::new()
            }
        },
    };
    let figure = models.figure("spend", question.measure);
    Ok(Sums { total, figure, group: heading(question.group, range), parts, no_parts })
}

pub(super) fn heading(group: GroupBy, range: Range) -> &'static str {
    match group {
        GroupBy::Day => range.head(),
        group => group.name(),
    }
}

fn by_model(models: &ByModel, href: &impl Fn(&str, &str) -> Option<String>) -> Vec<Part> {
    let whole = models.total().cost_nano_usd;
    let part = |(name, sums): (String, Measures)| {
        let href = href("model", &name);
        Part::new(name, href, &sums, whole)
    };
    models.models().into_iter().map(part).collect()
}

fn by_day(models: &ByModel, asked: &Asked, path: &str) -> Vec<Part> {
    let whole = models.total().cost_nano_usd;
    let used = models.periods().into_iter().rev().filter(|(_, sums)| sums.requests > 0);
    let part = |(at, sums): (db::Timestamp, Measures)| {
        let Span { from, to } = models.range.days_of(at);
        let (from, to) = (from.to_string(), to.to_string());
        let changes = [("from", Some(from.as_str())), ("to", Some(&to)), ("cursor", None)];
        Part::new(models.range.name(at), Some(asked.href(path, &changes)), &sums, whole)
    };
    used.map(part).collect()
}

fn sorted(
    mut groups: Vec<(String, Measures)>,
    whole: i64,
    href: impl Fn(&str) -> Option<String>,
) -> Vec<Part> {
    figures::sort(&mut groups, |sums| sums.cost_nano_usd);
    let part = |(name, sums): (String, Measures)| {
        let href = href(&name);
        Part::new(name, href, &sums, whole)
    };
    groups.into_iter().map(part).collect()
}

async fn keys(
    conn: &mut Conn,
    groups: Groups,
    whole: i64,
    href: &impl Fn(&str, &str) -> Option<String>,
) -> Result<Vec<Part>, ApiError> {
    let id_of = |group: &Group| group.key_id.unwrap_or(0);
    let ids: Vec<i64> = groups.keys().map(id_of).filter(|id| *id != 0).collect();
    let names = ApiKeyRecord::names(conn, &ids).await?;
    let mut groups: Vec<(i64, Measures)> =
        groups.into_iter().map(|(group, sums)| (id_of(&group), sums)).collect();
    groups.sort_by_key(|(id, sums)| (-sums.cost_nano_usd, -sums.requests, *id));
    let part = |(id, sums): (i64, Measures)| match id {
        0 => Part::new(SIGNED_IN.to_owned(), None, &sums, whole),
        id => Part::new(key_name(&names, id), href("key", &id.to_string()), &sums, whole),
    };
    Ok(groups.into_iter().map(part).collect())
}

/// Those who spent most, and all others together.
async fn spenders(
    conn: &mut Conn,
    levels: &Levels,
    span: (db::Timestamp, db::Timestamp),
    total: &Measures,
    href: &impl Fn(&str, &str) -> Option<String>,
) -> Result<Vec<Part>, ApiError> {
    let found = people::top(conn, levels, span, MOST_PEOPLE).await?;
    let ids: Vec<i64> = found.iter().map(|one| one.user_id).collect();
    let mut names = UserRecord::names(conn, &ids).await?;
    let whole = total.cost_nano_usd;
    let everybody = found.first().map_or(0, |one| one.people);
    let (mut requests, mut tokens, mut cost, mut unpriced) = (0, 0, 0, 0);
    let mut parts = Vec::with_capacity(found.len() + 1);
    for one in found {
        requests += one.requests;
        tokens += one.tokens;
        cost += one.cost_nano_usd;
        unpriced += one.unpriced;
        let name = names.remove(&one.user_id);
        parts.push(Part {
            name: name.unwrap_or_else(|| format!("person {}", one.user_id)),
            href: href("user_id", &one.user_id.to_string()),
            requests: one.requests,
            tokens: one.tokens,
            cost: (one.unpriced == 0 || one.cost_nano_usd > 0).then_some(one.cost_nano_usd),
            unpriced: one.unpriced,
            whole,
        });
    }
    let others = everybody - parts.len() as i64;
    if others > 0 {
        parts.push(Part {
            name: format!("{} other people", show::grouped(others)),
            href: None,
            requests: total.requests - requests,
            tokens: total.tokens() - tokens,
            cost: Some(whole - cost),
            unpriced: total.unpriced - unpriced,
            whole,
        });
    }
    Ok(parts)
}

/// Sums of the calls themselves; `None` if they are too many.
pub(super) async fn from_calls(
    conn: &mut Conn,
    (asked, path): (&Asked, &str),
    question: &Question,
    range: Range,
) -> Result<Option<Sums>, ApiError> {
    let calls = usage::newest(conn, &question.filter, MOST_ADDED_UP + 1).await?;
    if calls.len() as i64 > MOST_ADDED_UP {
        return Ok(None);
    }
    let failed = question.filter.outcome.as_deref() != Some("success");
    let mut sums = Groups::new();
    let mut parts: BTreeMap<(i64, String), Measures> = BTreeMap::new();
    for call in calls {
        let measures = call.measures(failed);
        let part = match question.group {
            GroupBy::Model | GroupBy::Day => (0, call.model_id.clone()),
            GroupBy::Region => (0, call.region),
            GroupBy::Key => (call.key_id.unwrap_or(0), String::new()),
            GroupBy::Person => (call.user_id, String::new()),
        };
        *parts.entry(part).or_default() += measures;
        let group = Group {
            period_start: range.period.floor(call.request_time),
            user_id: None,
            key_id: None,
            model_id: Some(call.model_id),
            region: None,
            endpoint_type: None,
        };
        *sums.entry(group).or_default() += measures;
    }
    // The days that were asked for, whatever is kept of others.
    let (start, end) = if range.widened {
        (question.span.start().max(range.start), question.span.end().min(range.end))
    } else {
        (range.start, range.end)
    };
    let models = ByModel { range: Range { start, end, ..range }, sums };
    let total = models.total();
    let whole = total.cost_nano_usd;
    let narrowed =
        |name: &str, value: &str| Some(asked.href(path, &[(name, Some(value)), ("cursor", None)]));
    let parts = match question.group {
        GroupBy::Model => by_model(&models, &narrowed),
        GroupBy::Day => by_day(&models, asked, path),
        GroupBy::Region => {
            let groups = parts.into_iter().map(|((_, name), sums)| (name, sums)).collect();
            sorted(groups, whole, |name| narrowed("region", name))
        }
        GroupBy::Key => {
            let groups = parts.into_iter().map(|((id, _), sums)| {
                (
                    Group {
                        period_start: start,
                        user_id: None,
                        key_id: Some(id),
                        model_id: None,
                        region: None,
                        endpoint_type: None,
                    },
                    sums,
                )
            });
            keys(conn, groups.collect(), whole, &narrowed).await?
        }
        GroupBy::Person => {
            let ids: Vec<i64> = parts.keys().map(|(id, _)| *id).collect();
            let called = UserRecord::names(conn, &ids).await?;
            let mut groups: Vec<_> = parts.into_iter().collect();
            groups.sort_by_key(|((id, _), sums)| (-sums.cost_nano_usd, -sums.requests, *id));
            let part = |((id, _), sums): ((i64, String), Measures)| {
                let name = called.get(&id).cloned().unwrap_or_else(|| format!("person {id}"));
                Part::new(name, narrowed("user_id", &id.to_string()), &sums, whole)
            };
            groups.into_iter().map(part).collect()
        }
    };
    let figure = models.figure("spend", question.measure);
    let group = heading(question.group, range);
    Ok(Some(Sums { total, figure, group, parts, no_parts: None }))
}
