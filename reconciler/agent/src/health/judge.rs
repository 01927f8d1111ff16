//! From answers to a verdict: pure.

use xeno_model::observed::HealthVerdict;

/// Remembers answers in a row.
#[derive(Debug)]
pub(super) struct Judge {
    threshold: u32,
    grace_until_ms: u64,
    good: u32,
    bad: u32,
    verdict: HealthVerdict,
}

impl Judge {
    pub(super) fn new(threshold: u32, grace_until_ms: u64) -> Self {
        Self {
            threshold: threshold.max(1),
            grace_until_ms,
            good: 0,
            bad: 0,
            verdict: HealthVerdict::Starting,
        }
    }

    /// Takes one answer: `Err` says what was wrong with it.
    pub(super) fn hear(&mut self, answer: Result<(), String>, now_ms: u64) -> HealthVerdict {
        match answer {
            Ok(()) => {
                self.good = self.good.saturating_add(1);
                self.bad = 0;
                if self.good >= self.threshold {
                    self.verdict = HealthVerdict::Healthy;
                }
            }
            Err(why) => {
                self.bad = self.bad.saturating_add(1);
                self.good = 0;
                let forgiven = self.verdict == HealthVerdict::Starting && now_ms < self.grace_until_ms;
                if self.bad >= self.threshold && !forgiven {
                    self.verdict = HealthVerdict::Unhealthy { why };
                }
            }
        }
        self.verdict.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` and `-` are answers, one a second with a grace of 5 s and a threshold of 2; expects one letter each.
    fn check(answers: &str, expected: &str) {
        let mut judge = Judge::new(2, 5_000);
        let letter = |(second, answer): (u64, char)| {
            let answer = if answer == '+' {
                Ok(())
            } else {
                Err("no answer".to_owned())
            };
            match judge.hear(answer, second * 1_000) {
                HealthVerdict::Starting => 's',
                HealthVerdict::Healthy => 'h',
                HealthVerdict::Unhealthy { .. } => 'u',
            }
        };
        let got: String = (0..).zip(answers.chars()).map(letter).collect();
        assert_eq!(got, expected, "answers {answers}");
    }

    #[test]
    fn one_answer_is_no_verdict() {
        check("+", "s");
        check("++", "sh");
        check("+-++", "sssh");
        check("++-+-+--", "shhhhhhu");
    }

    #[test]
    fn bad_answers_mean_nothing_in_the_grace() {
        check("----", "ssss");
        check("-----", "sssss");
        check("------", "sssssu");
        check("------++", "sssssuuh");
        // Once healthy, the grace is used up.
        check("++--", "shhu");
    }
}
