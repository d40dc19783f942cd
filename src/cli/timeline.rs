//! `keys timeline`: every key's life as a picture.
pub fn draw(
    _keys: &crate::keys::lifecycle::Keys,
    _policy: &crate::keys::policy::Policy,
    _now: crate::clock::UnixTime,
) -> String {
    String::new()
}
