//! How long healing rests after requests that failed. Pure.

use std::time::Duration;

use crate::ig::IgError;

/// Pause after IG has refused history alone, to tokens and a key that are good for all else; doubles up to the
/// last. No other request would fare better.
const REFUSED_PAUSE_FIRST: Duration = Duration::from_secs(30);
/// The longest such pause.
pub const REFUSED_PAUSE_LAST: Duration = Duration::from_secs(30 * 60);

/// How long no history is asked for after a refusal that means all of it, where `last` was the pause before,
/// while the trouble lasts. `None` for anything else.
pub fn refused_pause(error: &IgError, last: Option<Duration>) -> Option<Duration> {
    match error {
        IgError::Unauthorized(_) | IgError::CredentialsRefused(_) => {
            let pause = last.map_or(REFUSED_PAUSE_FIRST, |last| last.saturating_mul(2));
            Some(pause.clamp(REFUSED_PAUSE_FIRST, REFUSED_PAUSE_LAST))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_refusals_has_few_requests() {
        let refusals: [fn(String) -> IgError; 2] = [IgError::Unauthorized, IgError::CredentialsRefused];
        for refusal in refusals {
            let (mut day_s, mut pauses, mut last) = (0, Vec::new(), None);
            while day_s < 24 * 3_600 {
                last = refused_pause(&refusal(String::new()), last);
                let pause_s = last.unwrap().as_secs();
                pauses.push(pause_s);
                day_s += pause_s;
            }
            assert_eq!(pauses[..8], [30, 60, 120, 240, 480, 960, 1_800, 1_800]);
            assert!(pauses.len() <= 54, "{}", pauses.len());
        }
        // After a shorter pause of another kind it does not begin with less.
        let after =
            |last_s| refused_pause(&IgError::Unauthorized(String::new()), Some(Duration::from_secs(last_s)));
        assert_eq!(after(5), Some(REFUSED_PAUSE_FIRST));
        assert_eq!(after(86_400), Some(REFUSED_PAUSE_LAST));
    }

    #[test]
    fn what_means_one_request_or_is_over_by_itself_is_no_reason_to_rest() {
        for error in [
            IgError::Refused(String::new()),
            IgError::AllowanceSpent(String::new()),
            IgError::RateLimited(String::new()),
            IgError::Broken(String::new()),
        ] {
            assert_eq!(refused_pause(&error, Some(REFUSED_PAUSE_LAST)), None, "{error:?}");
        }
    }
}
