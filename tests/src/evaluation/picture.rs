//! The deployment timelines as a picture: each operation a bar, all on one scale, and below them whose time it was.

use std::fmt::Write as _;

use super::report::{Deployment, Kind, Place, Report};
use super::timeline::{Owner, Span};

const WIDTH: f64 = 960.0;
/// Where bars begin, and how much room is left for the number behind the longest.
const LEFT: f64 = 250.0;
const RIGHT: f64 = 80.0;
const ROW: f64 = 22.0;
const BAR: f64 = 12.0;
/// A bar that takes no time is still to be seen.
const BAR_LEAST: f64 = 1.5;
const INK: &str = "#0b0b0b";
const INK_SOFT: &str = "#52514e";
const LINE: &str = "#e1e0d9";

fn colour(owner: Owner) -> &'static str {
    match owner {
        Owner::Ours => "#2a78d6",
        Owner::Link => "#e34948",
        Owner::Asking => "#eda100",
        Owner::Hypervisor => "#8b8a85",
        Owner::Guest => "#1baf7a",
    }
}

/// Draws everything that was measured.
#[must_use]
pub fn draw(report: &Report) -> String {
    let longest = report.deployments.iter().map(|one| one.timeline.total_ms).max();
    let mut sheet = Sheet {
        body: String::new(),
        y: 34.0,
        scale: (WIDTH - LEFT - RIGHT) / millis(longest.unwrap_or(1).max(1)),
    };
    sheet.text(
        16.0,
        24.0,
        "Deploying an Apache sliver on Xen, operation by operation",
        16,
        INK,
        "600",
    );
    sheet.legend();
    for (kind, title) in [
        (Kind::BootNew, "Boot new"),
        (Kind::ResumeSuspended, "Resume suspended"),
    ] {
        if let Some(deployment) = report.deployment(kind, Place::Far) {
            sheet.panel(&format!("{title}, the overlay behind the slow link"), deployment);
        }
    }
    sheet.heading("Whose time it was");
    for deployment in &report.deployments {
        sheet.shares(deployment);
    }
    sheet.axis();
    let height = sheet.y + 12.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\">\n<title>Timelines of deploying a sliver on Xen</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fcfcfb\"/>\n{}</svg>\n",
        sheet.body
    )
}

struct Sheet {
    body: String,
    y: f64,
    /// Pixels for a millisecond.
    scale: f64,
}

impl Sheet {
    fn text(&mut self, x: f64, y: f64, text: &str, size: u32, ink: &str, weight: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{ink}\" font-weight=\"{weight}\">{text}</text>"
        );
    }

    fn bar(&mut self, began_ms: u64, ended_ms: u64, owner: Owner, title: &str) -> f64 {
        let x = LEFT + millis(began_ms) * self.scale;
        let width = (millis(ended_ms - began_ms) * self.scale).max(BAR_LEAST);
        let (y, fill) = (self.y + (ROW - BAR) / 2.0, colour(owner));
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"1.5\" fill=\"{fill}\"><title>{title}</title></rect>"
        );
        x + width
    }

    fn legend(&mut self) {
        let mut x = 16.0;
        for owner in Owner::ALL {
            let (y, fill) = (self.y + 6.0, colour(owner));
            let _ = writeln!(
                self.body,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" rx=\"1.5\" fill=\"{fill}\"/>"
            );
            self.text(x + 18.0, y + 10.5, owner.words(), 12, INK_SOFT, "400");
            x += 40.0 + 6.6 * millis(owner.words().len() as u64);
        }
        self.y += 24.0;
    }

    fn heading(&mut self, title: &str) {
        self.y += 14.0;
        let baseline = self.y + 12.0;
        self.text(16.0, baseline, title, 13, INK, "600");
        self.y += 20.0;
        let y = self.y;
        let _ = writeln!(
            self.body,
            "<line x1=\"16\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{LINE}\"/>",
            WIDTH - 16.0
        );
        self.y += 2.0;
    }

    /// One row for each operation; questions to `xl` have one row together.
    fn panel(&mut self, title: &str, deployment: &Deployment) {
        let timeline = &deployment.timeline;
        self.heading(&format!("{title}: {}", seconds(timeline.total_ms)));
        let (asked, others): (Vec<&Span>, Vec<&Span>) = timeline
            .spans
            .iter()
            .partition(|span| span.owner == Owner::Asking);
        for span in others {
            let label_y = self.y + 15.0;
            let within = matches!(span.owner, Owner::Hypervisor | Owner::Link);
            let indent = if within { 32.0 } else { 16.0 };
            self.text(indent, label_y, &span.what, 12, INK, "400");
            let title = format!("{} {}", span.what, seconds(span.ms()));
            let end = self.bar(span.began_ms, span.ended_ms, span.owner, &title);
            self.text(end + 6.0, label_y, &seconds(span.ms()), 11, INK_SOFT, "400");
            if span.owner == Owner::Guest {
                self.marks(&timeline.marks);
            }
            self.y += ROW;
        }
        if !asked.is_empty() {
            let label_y = self.y + 15.0;
            let (count, total) = (asked.len(), asked.iter().map(|span| span.ms()).sum());
            self.text(16.0, label_y, &format!("xl asked, {count} times"), 12, INK, "400");
            let mut end = LEFT;
            for span in asked {
                let title = format!("{} {}", span.what, seconds(span.ms()));
                end = end.max(self.bar(span.began_ms, span.ended_ms, Owner::Asking, &title));
            }
            self.text(end + 6.0, label_y, &seconds(total), 11, INK_SOFT, "400");
            self.y += ROW;
        }
    }

    /// What the guest said, as ticks.
    fn marks(&mut self, marks: &[(u64, String)]) {
        for (at, said) in marks {
            let x = LEFT + millis(*at) * self.scale;
            let (top, bottom) = (self.y + 3.0, self.y + ROW - 3.0);
            let said = said.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                self.body,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"{INK}\"><title>{said}</title></line>"
            );
        }
    }

    fn shares(&mut self, deployment: &Deployment) {
        let label_y = self.y + 15.0;
        self.text(16.0, label_y, &name(deployment), 12, INK, "400");
        let mut at = 0;
        for (owner, ms) in deployment.timeline.shares() {
            if ms > 0 {
                let title = format!("{} {}", owner.words(), seconds(ms));
                self.bar(at, at + ms, owner, &title);
                at += ms;
            }
        }
        let end = LEFT + millis(at) * self.scale;
        self.text(
            end + 6.0,
            label_y,
            &seconds(deployment.timeline.total_ms),
            11,
            INK_SOFT,
            "400",
        );
        self.y += ROW;
    }

    /// Seconds below everything.
    fn axis(&mut self) {
        self.y += 4.0;
        let (y, room) = (self.y, WIDTH - LEFT - RIGHT);
        // About eight steps of a round number of seconds.
        let whole_s = room / self.scale / 1000.0;
        let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0]
            .into_iter()
            .find(|step| whole_s / step <= 9.0)
            .unwrap_or(600.0);
        let mut at = 0.0;
        while at <= whole_s {
            let x = LEFT + at * 1000.0 * self.scale;
            let _ = writeln!(
                self.body,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\" stroke=\"{INK_SOFT}\"/>",
                y + 5.0
            );
            self.text(x - 6.0, y + 18.0, &format!("{at:.0} s"), 11, INK_SOFT, "400");
            at += step;
        }
        self.y += 22.0;
    }
}

/// What a deployment is called.
#[must_use]
pub fn name(deployment: &Deployment) -> String {
    let kind = match deployment.kind {
        Kind::BootNew => "boot new",
        Kind::ResumeSuspended => "resume suspended",
    };
    let place = match deployment.place {
        Place::Near => "warm node",
        Place::Far => "slow link",
        Place::ByHand => "by hand, slow link",
    };
    format!("{kind}, {place}")
}

/// Milliseconds as seconds, as exactly as matters.
#[must_use]
pub fn seconds(ms: u64) -> String {
    if ms < 10_000 {
        format!("{:.2} s", millis(ms) / 1000.0)
    } else {
        format!("{:.1} s", millis(ms) / 1000.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of hours at most")]
fn millis(ms: u64) -> f64 {
    ms as f64
}
