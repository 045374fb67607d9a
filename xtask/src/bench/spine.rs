//! The main rows: initial protection, the day after, another host, and the way back, by all three tools in turn.

use crate::bench::lab::{Lab, allocated_bytes, chill, point_id, warm};
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::bench::{Options, Row};
use crate::corpus::compare::identical;
use crate::corpus::pages::{read_extents, total};
use crate::problem::{Context, Outcome};
use std::collections::BTreeMap;
use std::path::Path;

/// Measures all rounds, and a cold one if asked for.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    for round in 0..lab.options.rounds {
        println!("-- round {} of {}", round + 1, lab.options.rounds);
        Round::begin(lab, round, false)?.run(samples)?;
    }
    if lab.options.cold {
        println!("-- cold round");
        Round::begin(lab, 0, true)?.run(samples)?;
    }
    Ok(())
}

struct Round<'a> {
    lab: &'a Lab,
    cold: bool,
    repositories: Vec<Repository>,
    changed: f64,
    /// Our recovery point of day1
    point: String,
}

impl<'a> Round<'a> {
    fn begin(lab: &'a Lab, round: u32, cold: bool) -> Outcome<Self> {
        let repositories = Tool::rotated(round)
            .into_iter()
            .map(|tool| Repository::create(lab, tool, "main", Unlock::Passphrase))
            .collect::<Outcome<Vec<_>>>()?;
        Ok(Self {
            lab,
            cold,
            repositories,
            changed: total(&read_extents(&lab.images.extents)?) as f64,
            point: String::new(),
        })
    }

    /// Later rows need what earlier ones stored, so a row is left out only when none after it is wanted.
    fn run(mut self, samples: &mut Samples) -> Outcome<()> {
        let last = last_stage(&self.lab.options);
        let images = &self.lab.images;
        self.protect(samples, "initial", &images.day0, None)?;
        if last >= 1 {
            self.protect(samples, "express", &images.day1, Some(&images.extents))?;
        }
        if last >= 2 && self.lab.options.wants(Row::Host2) {
            self.protect(samples, "host2", &images.host2, None)?;
        }
        if last >= 3 {
            self.restore(samples, "restore", true)?;
            self.restore(samples, "restore-nosync", false)?;
        }
        for repository in self.repositories {
            repository.remove()?;
        }
        Ok(())
    }

    fn row(&self, name: &str) -> String {
        if self.cold {
            format!("{name}-cold")
        } else {
            name.to_owned()
        }
    }

    fn prepare(&self, paths: &[&Path]) -> Outcome<()> {
        if self.cold {
            chill()
        } else {
            paths.iter().try_for_each(|path| warm(path))
        }
    }

    fn protect(
        &mut self,
        samples: &mut Samples,
        row: &str,
        image: &Path,
        extents: Option<&Path>,
    ) -> Outcome<()> {
        let name = if row == "host2" { "host2" } else { "vm" };
        let mut point = None;
        for repository in &self.repositories {
            self.prepare(&[image])?;
            let (mut sample, object) =
                self.lab
                    .protect(repository, &self.row(row), name, image, extents)?;
            if extents.is_some() {
                sample.facts.insert("changed_bytes", self.changed);
            }
            if repository.tool == Tool::Ours && row == "express" {
                point = Some(point_id(&object)?);
            }
            samples.add(sample);
        }
        self.point = point.unwrap_or_else(|| self.point.clone());
        Ok(())
    }

    fn restore(&self, samples: &mut Samples, row: &str, sync: bool) -> Outcome<()> {
        let image = &self.lab.images.day1;
        for repository in &self.repositories {
            let out = self.lab.folder("out")?;
            self.prepare(&[&repository.folder])?;
            let (mut command, file) = repository.restore(&self.point, "vm", image, &out, sync)?;
            let (cost, _) = self.lab.quiet_run(&mut command)?;
            let tool = repository.tool;
            if !identical(image, &file)? {
                return Err(format!(
                    "{} did not restore the image as it was",
                    tool.name()
                ));
            }
            let holes = allocated_bytes(&file)? / allocated_bytes(image)?;
            samples.add(Sample {
                row: self.row(row),
                tool,
                cost,
                facts: BTreeMap::from([("allocated_percent", holes * 100.0)]),
            });
            std::fs::remove_dir_all(&out).context(out.display())?;
        }
        Ok(())
    }
}

fn last_stage(options: &Options) -> u8 {
    let stages = [(Row::Restore, 3), (Row::Host2, 2), (Row::Express, 1)];
    stages
        .iter()
        .find(|(row, _)| options.wants(*row))
        .map_or(0, |(_, stage)| *stage)
}
