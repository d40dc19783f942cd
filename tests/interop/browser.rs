//! A browser, as far as a login needs one: cookies, redirects, pages that lead on, and forms.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{COOKIE, HeaderMap, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{RequestBuilder, StatusCode};
use url::Url;

/// No login is led on more often.
const MAX_HOPS: usize = 20;
/// Browsers keep no longer cookie (RFC 6265 section 6.1).
const MAX_COOKIE_BYTES: usize = 4096;

/// The HTTP client of every browser: it trusts this authority, and leaves redirects and cookies to the browser.
pub fn http(authority: &Path) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority).unwrap()).unwrap();
    reqwest::Client::builder()
        .add_root_certificate(authority)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(0)
        .build()
        .unwrap()
}

/// One browser. All its sites are on one machine, and cookies know no ports.
pub struct Browser {
    http: reqwest::Client,
    jar: BTreeMap<String, String>,
}

/// Where a browser ended up.
#[derive(Debug)]
pub struct Page {
    /// The address.
    pub url: Url,
    /// The status.
    pub status: StatusCode,
    /// What is there.
    pub body: String,
    /// Each address on the way, this one included.
    pub visited: Vec<Url>,
}

/// What a browser was led to.
#[derive(Debug)]
pub enum Landing {
    /// A page.
    Page(Page),
    /// An address that it was to stop before.
    Before(Url),
}

impl Browser {
    /// One without cookies.
    pub fn new(http: &reqwest::Client) -> Self {
        Self {
            http: http.clone(),
            jar: BTreeMap::new(),
        }
    }

    /// The page that this address leads to.
    pub async fn open(&mut self, url: Url) -> Result<Page, String> {
        let request = self.http.get(url.clone());
        match self.follow(url, request, None).await? {
            Landing::Page(page) => Ok(page),
            Landing::Before(url) => Err(format!("stopped before {url}")),
        }
    }

    /// Sends the form of this page with these fields besides, and stops before an address that begins like this.
    pub async fn send(
        &mut self,
        page: &Page,
        fields: &[(&str, &str)],
        before: Option<&str>,
    ) -> Result<Landing, String> {
        let form = Form::read(page)?;
        let mut members: Vec<(&str, &str)> = form.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        members.retain(|(name, _)| !fields.iter().any(|(other, _)| other == name));
        members.extend(fields);
        let request = self
            .http
            .post(form.action.clone())
            .header(ORIGIN, page.url.origin().ascii_serialization())
            .header("Sec-Fetch-Site", "same-origin")
            .form(&members);
        self.follow(form.action, request, before).await
    }

    async fn follow(
        &mut self,
        mut url: Url,
        mut request: RequestBuilder,
        before: Option<&str>,
    ) -> Result<Landing, String> {
        let mut visited = vec![url.clone()];
        while visited.len() <= MAX_HOPS {
            let answer = request
                .header(COOKIE, self.cookies())
                .header("Accept", "text/html,*/*")
                .send()
                .await
                .map_err(|error| format!("{url}: {error:?}"))?;
            self.keep(answer.headers())?;
            let status = answer.status();
            let location = answer
                .headers()
                .get(LOCATION)
                .and_then(|location| location.to_str().ok());
            let redirect = location.filter(|_| status.is_redirection()).map(str::to_owned);
            let body = answer.text().await.map_err(|error| format!("{url}: {error:?}"))?;
            let Some(next) = redirect.or_else(|| leads_to(&body)) else {
                return Ok(Landing::Page(Page {
                    url,
                    status,
                    body,
                    visited,
                }));
            };
            url = url.join(&next).map_err(|error| format!("{next}: {error}"))?;
            if before.is_some_and(|before| url.as_str().starts_with(before)) {
                return Ok(Landing::Before(url));
            }
            visited.push(url.clone());
            request = self.http.get(url.clone());
        }
        Err(format!("led on and on: {visited:?}"))
    }

    fn cookies(&self) -> String {
        let cookies: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        cookies.join("; ")
    }

    fn keep(&mut self, headers: &HeaderMap) -> Result<(), String> {
        for cookie in headers.get_all(SET_COOKIE) {
            let cookie = cookie.to_str().map_err(|error| error.to_string())?;
            let mut parts = cookie.split(';').map(str::trim);
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).unwrap_or_default();
            if name.len() + value.len() > MAX_COOKIE_BYTES {
                return Err(format!("the cookie {name} has {} bytes", value.len()));
            }
            let ends = |part: &str| {
                let part = part.to_ascii_lowercase();
                part == "max-age=0" || part.starts_with("expires=") && part.contains(" 1970 ")
            };
            if value.is_empty() || parts.any(ends) {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }
}

impl Page {
    /// Short, for the one line that a refusal is reported in.
    pub fn summary(&self) -> String {
        let body: Vec<&str> = self.body.split_whitespace().collect();
        let body: String = body.join(" ").chars().take(400).collect();
        format!("{} at {}: {body}", self.status, self.url)
    }
}

/// Where a page leads by itself.
fn leads_to(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("content=\"0; url=")?;
    Some(unescaped(rest.split('"').next()?))
}

struct Form {
    action: Url,
    fields: Vec<(String, String)>,
}

impl Form {
    /// The first one of the page.
    fn read(page: &Page) -> Result<Self, String> {
        let none = || format!("no form: {}", page.summary());
        let (_, form) = page.body.split_once("<form").ok_or_else(none)?;
        let form = form.split("</form>").next().unwrap_or(form);
        let action = attribute(form.split('>').next().unwrap_or_default(), "action").unwrap_or_default();
        let inputs = form
            .split("<input")
            .skip(1)
            .map(|input| input.split('>').next().unwrap_or(input));
        Ok(Self {
            action: page.url.join(&action).map_err(|error| error.to_string())?,
            fields: inputs
                .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default())))
                .collect(),
        })
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(unescaped(rest.split('"').next()?))
}

fn unescaped(text: &str) -> String {
    [
        ("&#38;", "&"),
        ("&amp;", "&"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escaped, character)| {
        text.replace(escaped, character)
    })
}
