//! People log in at clients: the authorization endpoint, its pages, codes, ID tokens and userinfo, over HTTP.

mod attacks;
mod browser;
mod claims;
mod conformance;
mod consents;
mod flow;
mod logout;
mod pages;
mod party;
mod races;
mod registration;
