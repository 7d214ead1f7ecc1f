//! A token that costs something to get: kept while it is good, got once for all who wait, renewed early and when it is
//! refused.

use std::time::Duration;

use http::HeaderValue;
use tokio::{sync::Mutex, time::Instant};
use tracing::warn;

/// Time between two attempts to get a token while an old one can still be used, and between two for refused ones.
const PAUSE: Duration = Duration::from_secs(5);

/// Where tokens come from.
pub(super) trait TokenSource {
    /// Gets a token.
    fn fetch(&self) -> impl Future<Output = Result<Token, String>> + Send;
}

/// A token, and how long to use it.
#[derive(Clone)]
pub(super) struct Token {
    pub value: HeaderValue,
    /// After this it is replaced.
    pub fresh: Duration,
    /// After this it is not used any more, if that is known.
    pub good: Option<Duration>,
}

pub(super) struct Cached<S> {
    source: S,
    /// Held while a token is got, so that all others wait for that one.
    held: Mutex<Option<Held>>,
}

struct Held {
    value: HeaderValue,
    fresh_until: Instant,
    good_until: Option<Instant>,
    /// When the next refusal may ask for another one.
    renewable: Instant,
}

impl<S: TokenSource> Cached<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, held: Mutex::new(None) }
    }

    /// A token that is good now.
    pub(super) async fn value(&self) -> Result<HeaderValue, String> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(token) = held.as_ref().filter(|token| now < token.fresh_until) {
            return Ok(token.value.clone());
        }
        match self.source.fetch().await {
            Ok(token) => Ok(held.insert(Held::new(token, now)).value.clone()),
            Err(cause) => match held.as_mut().filter(|token| token.good_until.is_none_or(|until| now < until)) {
                Some(token) => {
                    warn!("a token cannot be renewed, the old one is used as long as it is good: {cause}");
                    token.fresh_until = now + PAUSE;
                    Ok(token.value.clone())
                }
                None => Err(cause),
            },
        }
    }

    /// Whether there is another token than the one that was refused. Gets one, unless that was tried just now: a
    /// destination that refuses every token must not make the source work for each request.
    pub(super) async fn renew(&self, refused: &HeaderValue) -> bool {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(token) = held.as_mut() {
            if token.value != *refused {
                return true;
            }
            if now < token.renewable {
                return false;
            }
            token.renewable = now + PAUSE;
        }
        match self.source.fetch().await {
            Ok(token) => {
                let renewable = now + PAUSE;
                let token = held.insert(Held { renewable, ..Held::new(token, now) });
                token.value != *refused
            }
            Err(cause) => {
                warn!("the destination refuses the token, and another cannot be had: {cause}");
                false
            }
        }
    }
}

impl Held {
    fn new(token: Token, now: Instant) -> Self {
        let good_until = token.good.map(|good| now + good);
        Self { value: token.value, fresh_until: now + token.fresh, good_until, renewable: now }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    /// Gives numbered tokens, unless told not to.
    #[derive(Default)]
    struct Numbers {
        given: AtomicU32,
        fails: std::sync::atomic::AtomicBool,
    }

    impl TokenSource for Numbers {
        async fn fetch(&self) -> Result<Token, String> {
            tokio::task::yield_now().await;
            if self.fails.load(Relaxed) {
                return Err("no".into());
            }
            let value = HeaderValue::from(self.given.fetch_add(1, Relaxed));
            Ok(Token { value, fresh: Duration::from_secs(60), good: Some(Duration::from_secs(100)) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_got_once_and_renewed_early() {
        let cached = Cached::new(Numbers::default());
        let all = tokio::join!(cached.value(), cached.value(), cached.value());
        assert_eq!(all, (Ok(0.into()), Ok(0.into()), Ok(0.into())));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(cached.value().await, Ok(0.into()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(cached.value().await, Ok(1.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_token_is_used_as_long_as_it_is_good() {
        let cached = Cached::new(Numbers::default());
        cached.value().await.unwrap();
        cached.source.fails.store(true, Relaxed);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(cached.value().await, Ok(0.into()));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(cached.value().await, Err("no".into()));
        cached.source.fails.store(false, Relaxed);
        assert_eq!(cached.value().await, Ok(1.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_replaced_once_in_a_while() {
        let cached = Cached::new(Numbers::default());
        let first = cached.value().await.unwrap();
        // Two requests were refused with the same token: one new token serves both.
        assert_eq!(tokio::join!(cached.renew(&first), cached.renew(&first)), (true, true));
        let second = cached.value().await.unwrap();
        assert_eq!((second.clone(), cached.source.given.load(Relaxed)), (1.into(), 2));
        assert!(!cached.renew(&second).await, "that was just now");
        assert_eq!(cached.source.given.load(Relaxed), 2);
        tokio::time::advance(PAUSE).await;
        assert!(cached.renew(&second).await);
        cached.source.fails.store(true, Relaxed);
        tokio::time::advance(PAUSE).await;
        let third = cached.value().await.unwrap();
        assert!(!cached.renew(&third).await);
        assert_eq!(cached.value().await.unwrap(), third);
    }
}
