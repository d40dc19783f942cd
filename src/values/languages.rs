//! The languages of the pages.

/// Each by its tag (BCP 47). The first is for a person who asks for none of them.
pub const LANGUAGES: [&str; 3] = ["en", "de", "id"];
