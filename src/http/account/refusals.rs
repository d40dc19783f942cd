//! The table from errors of the layers below to refusals.

use crate::accounts::email::InvalidEmail;
use crate::accounts::password::PasswordTooLong;
use crate::accounts::refresh::Refused;
use crate::accounts::session::EndedBy;
use crate::accounts::user::InvalidName;
use crate::http::codes::Code;
use crate::http::problem::Problem;
use crate::logins::LoginError;
use crate::sessions::CannotRefresh;

impl From<InvalidEmail> for Problem {
    fn from(error: InvalidEmail) -> Self {
        Self::new(Code::InvalidEmail, error.to_string())
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::new(Code::InvalidName, error.to_string())
    }
}

impl From<PasswordTooLong> for Problem {
    fn from(error: PasswordTooLong) -> Self {
        Self::new(Code::PasswordRefused, error.to_string())
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        let detail = error.to_string();
        match error {
            LoginError::Wrong => Self::new(Code::LoginFailed, detail),
            LoginError::Limited { retry_after } => Self::new(Code::RateLimited, detail).after(retry_after),
            LoginError::Busy(overflow) => Self::new(Code::TemporarilyUnavailable, detail).after(overflow.retry_after),
            LoginError::Password(_) => Self::new(Code::PasswordRefused, detail),
            LoginError::RegistrationClosed => Self::new(Code::RegistrationClosed, detail),
            LoginError::EmailTaken => Self::new(Code::EmailTaken, detail),
            failed @ (LoginError::CannotSign(_)
            | LoginError::Store(_)
            | LoginError::Randomness(_)
            | LoginError::Hashing(_)
            | LoginError::NoAnswer(_)) => Self::unavailable(&failed, "a password could not be looked at"),
        }
    }
}

impl From<CannotRefresh> for Problem {
    fn from(error: CannotRefresh) -> Self {
        let CannotRefresh::Refused(refused) = &error else {
            return Self::unavailable(&error, "a session could not be refreshed");
        };
        let code = match refused {
            Refused::NotOurs | Refused::WrongClient | Refused::WrongAudience => Code::RefreshInvalid,
            Refused::Expired | Refused::Idle => Code::RefreshExpired,
            Refused::Reused | Refused::Ended(EndedBy::Reuse) => Code::RefreshReused,
            Refused::Suspended | Refused::TenantDisabled => Code::AccountSuspended,
            Refused::Unknown | Refused::RolledBack | Refused::Ended(_) => Code::SessionEnded,
            Refused::TooEarly | Refused::ClockInDoubt => Code::TemporarilyUnavailable,
        };
        Self::new(code, format!("the refresh token gets nothing: {refused}"))
    }
}
