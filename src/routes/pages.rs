//! Pages for people, rendered here and complete without scripts. A page is for [`Viewer`] or [`AdminViewer`]; what it
//! changes comes in a form, through `csrf::Signed`.

mod admin;
mod connect;
mod figures;
mod home;
mod keys;
mod sessions;
mod sign_in;
mod usage;

use std::sync::Arc;

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, Route,
    dev::Payload,
    guard,
    http::header::{self, AcceptEncoding, ContentEncoding, Encoding, EntityTag, IfNoneMatch},
    web,
};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Deserializer};

use super::{
    csrf,
    error::{ApiError, Code},
    extract::{self, Visitor},
};
use crate::{
    auth::Identity,
    db::{Conn, DbError, users::UserRecord},
    state::Worker,
    templates::{self, Place, Shell, assets},
};

/// Mounts the pages. They describe themselves, so the OpenAPI document does not.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            // Clients probe the base address, too, without signing in.
            web::resource("/")
                .route(web::head().to(HttpResponse::Ok))
                .route(web::get().to(home::show)),
        )
        .service(web::resource("/login").route(get().to(sign_in::login)))
        .service(
            web::resource("/login/cli")
                .route(get().to(sign_in::ask_for_cli))
                .route(web::post().to(sign_in::decide_for_cli)),
        )
        .service(
            web::resource("/device")
                .route(get().to(sign_in::device))
                .route(web::post().to(sign_in::decide_device)),
        )
        .service(web::resource("/connect").route(get().to(connect::show)))
        .service(web::resource("/connect/test").route(web::post().to(connect::test)))
        .service(
            web::resource("/keys").route(get().to(keys::list)).route(web::post().to(keys::create)),
        )
        .service(web::resource("/keys/{key_id}/rename").route(web::post().to(keys::rename)))
        .service(web::resource("/keys/{key_id}/rotate").route(web::post().to(keys::rotate)))
        .service(web::resource("/keys/{key_id}/revoke").route(web::post().to(keys::revoke)))
        .service(web::resource("/usage").route(get().to(usage::own)))
        .service(web::resource("/usage/calls/{id}").route(get().to(usage::one::own)))
        .service(web::resource("/sessions").route(get().to(sessions::list)))
        .service(web::resource("/sessions/{id}/end").route(web::post().to(sessions::end)))
        .configure(admin::configure)
        .route("/static/{file}", get().to(asset));
}

/// A page is asked for whole, or for its head alone.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// Whoever looks at a page, signed in with a browser. Others are led to the sign-in page, and back afterwards.
pub struct Viewer(pub Arc<Identity>);

/// An admin who looks at a page.
pub struct AdminViewer(pub Viewer);

impl FromRequest for Viewer {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let Visitor(visitor) = Visitor::extract(&request).await?;
            visitor.map(Self).ok_or_else(|| ApiError::to_sign_in(&here(&request)))
        })
    }
}

impl FromRequest for AdminViewer {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, viewer) = (request.clone(), Viewer::from_request(request, payload));
        Box::pin(async move {
            let viewer = viewer.await?;
            extract::must_be_admin(&request, &viewer.0).await?;
            Ok(Self(viewer))
        })
    }
}

impl Viewer {
    /// Who it is, as pages call them.
    pub async fn name(&self, conn: &mut Conn) -> Result<String, DbError> {
        name_of(conn, &self.0).await
    }

    /// What their forms have to bring back.
    pub fn csrf_token(&self, worker: &Worker) -> String {
        let session_id = self.0.credential.session_id().unwrap_or_default();
        csrf::token(&worker.shared.keys, session_id)
    }

    /// What stands around a page.
    pub async fn shell(
        &self,
        conn: &mut Conn,
        worker: &Worker,
        place: Place,
    ) -> Result<Shell, DbError> {
        Ok(Shell {
            place,
            person: self.name(conn).await?,
            admin: self.0.admin,
            csrf_token: self.csrf_token(worker),
            notice: None,
        })
    }
}

/// Who somebody is, as pages call them.
pub async fn name_of(conn: &mut Conn, identity: &Identity) -> Result<String, DbError> {
    let user = UserRecord::find(conn, identity.user_id).await?;
    Ok(user.map_or_else(|| format!("person {}", identity.user_id), UserRecord::called))
}

fn here(request: &HttpRequest) -> String {
    request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned()
}

/// A member of a query that is there but empty, as a filter that is not set comes, is not there.
fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// What is wrong with a form or filter: told beside its field, if it is one.
#[derive(Debug, Default)]
pub struct Problem {
    field: Option<String>,
    message: String,
}

impl Problem {
    /// With the form as a whole.
    fn new(message: &str) -> Self {
        Self { field: None, message: message.to_owned() }
    }

    /// What the sender of a form can mend is told on the form; anything else stays an error.
    ///
    /// # Errors
    /// The error itself.
    fn of(error: ApiError) -> Result<Self, ApiError> {
        let mendable = matches!(
            error.code,
            Code::InvalidParameter
                | Code::InvalidCsv
                | Code::UnknownField
                | Code::Conflict
                | Code::KeyLimitReached
        );
        if !mendable {
            return Err(error);
        }
        let message = match error.field() {
            // It is not something that people type.
            Some("cursor") => "This part of the list cannot be found: begin with the first.",
            _ => error.message(),
        };
        Ok(Self { field: error.field().map(str::to_owned), message: message.to_owned() })
    }

    fn is_none(&self) -> bool {
        self.message.is_empty()
    }

    /// The page that tells it, or the page without one.
    fn answer(&self, shown: &impl askama::Template) -> HttpResponse {
        match self.is_none() {
            true => page(shown),
            false => templates::answer(HttpResponse::BadRequest(), shown),
        }
    }

    /// What is wrong with this field.
    fn with(&self, field: &str) -> Option<&str> {
        (self.field.as_deref() == Some(field)).then_some(&self.message)
    }

    /// What is wrong, if it is none of these fields.
    fn besides(&self, fields: &[&str]) -> Option<&str> {
        let elsewhere = self.field.as_deref().is_none_or(|field| !fields.contains(&field));
        (elsewhere && !self.message.is_empty()).then_some(&self.message)
    }
}

/// What came of reading a form, and what is wrong with it if nothing did.
///
/// # Errors
/// What the sender cannot mend.
fn mended<T: Default>(read: Result<T, ApiError>) -> Result<(T, Problem), ApiError> {
    match read {
        Ok(read) => Ok((read, Problem::default())),
        Err(error) => Ok((T::default(), Problem::of(error)?)),
    }
}

/// The foot of a list: which part of it is shown, and where the others are.
#[derive(Debug, Default)]
pub struct Pager {
    /// `1–50 of 1,234`.
    told: String,
    previous: Option<String>,
    next: Option<String>,
}

fn page(page: &impl askama::Template) -> HttpResponse {
    templates::answer(HttpResponse::Ok(), page)
}

/// To a page, after a form: so that going back or loading again sends nothing twice.
fn see(path: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, path)).finish()
}

/// Files that pages load. A name with the file's digest is for ever; any other is asked for again each time.
///
/// These alone are compressed, and only for clients that say they take it. Pages and the API carry secrets beside text that
/// others may have a part in, and the length of what is compressed would tell of them (BREACH); answers of models pass as they
/// are. A file here is the same for everybody.
async fn asset(
    path: web::Path<String>,
    accepted: Option<web::Header<AcceptEncoding>>,
    known: Option<web::Header<IfNoneMatch>>,
) -> Result<HttpResponse, ApiError> {
    let (asset, current) = assets::find(&path)
        .ok_or_else(|| ApiError::new(Code::NotFound, "There is no such file."))?;
    let caching = match current {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    let gzipped = match accepted.is_some_and(|web::Header(accepted)| takes_gzip(&accepted)) {
        true if asset.is_gzipped() => asset.gzipped(),
        // Not on this thread, where streams wait.
        true => web::block(|| asset.gzipped()).await.unwrap_or_default(),
        false => None,
    };
    // What is sent is other bytes, so it has another tag.
    let tag = EntityTag::new_strong(match &gzipped {
        Some(_) => format!("{}-gzip", asset.tag),
        None => asset.tag.clone(),
    });
    let unchanged = known.is_some_and(|web::Header(known)| match known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    });
    let mut response = if unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((header::CACHE_CONTROL, caching))
        .insert_header((header::VARY, header::ACCEPT_ENCODING.as_str()))
        .insert_header(header::ETag(tag))
        .insert_header((header::CONTENT_TYPE, asset.kind));
    Ok(match gzipped {
        _ if unchanged => response.finish(),
        Some(gzipped) => response.insert_header(ContentEncoding::Gzip).body(gzipped),
        None => response.body(asset.content),
    })
}

/// Whether a client names gzip, and likes nothing of ours better. Without `Accept-Encoding` nothing is compressed.
fn takes_gzip(accepted: &AcceptEncoding) -> bool {
    let ours = [Encoding::gzip(), Encoding::identity()];
    accepted.negotiate(ours.iter()) == Some(Encoding::gzip())
}
