//! The stylesheet, the script and the icon: within the program, and under names that change with them.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{Markup, PreEscaped};

use super::session::{hashed, hex};

const MARK: &str = include_str!("assets/icon.svg");

/// A file that is served.
pub struct UiAsset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
    /// Of its text.
    version: LazyLock<String>,
}

macro_rules! asset {
    ($name:literal, $kind:literal) => {
        UiAsset {
            name: $name,
            kind: $kind,
            text: include_str!(concat!("assets/", $name)),
            version: LazyLock::new(|| hex(&hashed(include_str!(concat!("assets/", $name)))[..6])),
        }
    };
}

pub static STYLE: UiAsset = asset!("ui.css", "text/css; charset=utf-8");
pub static SCRIPT: UiAsset = asset!("ui.js", "text/javascript; charset=utf-8");
pub static ICON: UiAsset = asset!("icon.svg", "image/svg+xml");

impl UiAsset {
    /// Where it is; another text is elsewhere, so that browsers may keep each for good.
    pub fn path(&self) -> String {
        format!("/ui/assets/{}?{}", self.name, *self.version)
    }
}

/// The mark beside the name.
pub fn mark() -> Markup {
    PreEscaped(MARK.trim().to_owned())
}

pub async fn asset(Path(name): Path<String>) -> Response {
    match [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers =
                [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
