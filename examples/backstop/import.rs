//! `import`: protects an image of another format. `qemu-nbd` opens it, for
//! reading only, and we read what it serves, so that no raw copy is ever made.

use std::path::Path;

use backstop::{
    AgentSettings, BlockSource, ByteCount, Changes, ChunkDigest, CpuPool, Error, FileSource,
    ProtectionServer, Result, SnapshotId, SourceName,
};

use crate::arguments::ImportArguments;
use crate::ending::Ending;
use crate::image_format::ImageFormat;
use crate::image_server::ImageServer;
use crate::imported::Imported;
use crate::output::{Output, warn};
use crate::protect::Job;
use crate::qemu::{self, ImageInfo};

/// Makes a recovery point of an image: of everything, or of what differs from
/// the source's newest one.
pub async fn import(
    arguments: &ImportArguments,
    server: &ProtectionServer,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let source = SourceName::new(&arguments.name)?;
    let path = &arguments.image;
    // Refuses what is no image file, and tells whether it changes meanwhile.
    let file = FileSource::open(path).await?;
    let format = format(arguments).await?;
    let serving = match format {
        ImageFormat::Raw => None,
        format => Some(ImageServer::start(path, format).await?),
    };
    let image: &dyn BlockSource = match &serving {
        Some(serving) => serving.image(),
        None => &file,
    };
    let image = Imported::new(image, &file, arguments.length.map(ByteCount)).await?;
    let job = Job {
        source,
        snapshot: snapshot(&file, format, image.geometry().length),
        image: &image,
        changes: Changes::Unknown,
        settings: AgentSettings::default(),
    };
    let ending = job.run(server, cpu, output).await;
    match serving {
        Some(serving) => serving.explain(ending).await,
        None => ending,
    }
}

/// The format that was told, or that the image shows; the image is refused if
/// it is not all in its file.
async fn format(arguments: &ImportArguments) -> Result<ImageFormat> {
    let path = &arguments.image;
    if arguments.format == Some(ImageFormat::Raw) {
        return Ok(ImageFormat::Raw);
    }
    let info = qemu::info(path, arguments.format).await?;
    let format = match arguments.format {
        Some(format) => format,
        None => ImageFormat::named(&info.format).ok_or_else(|| {
            Error::invalid_input(format!(
                "{} is an image of format {}; `qemu-img convert` makes one of it that can be imported",
                path.display(),
                info.format
            ))
        })?,
    };
    if let Some(what) = beyond(path, &info)? {
        return Err(Error::invalid_input(format!(
            "{} is not imported, since it {what}; `qemu-img convert` makes one whole image of it",
            path.display()
        )));
    }
    let snapshots = info.snapshots.len();
    if snapshots > 0 {
        warn(format_args!(
            "{} holds {snapshots} snapshots, which are not imported; its present state is",
            path.display()
        ));
    }
    Ok(format)
}

/// What an image needs beyond its own file, or does not hold.
fn beyond(path: &Path, info: &ImageInfo) -> Result<Option<String>> {
    if let Some(base) = &info.backing_filename {
        return Ok(Some(format!("holds only what differs from {base}")));
    }
    if info.encrypted {
        return Ok(Some("is encrypted".to_owned()));
    }
    let Some(specific) = &info.format_specific else {
        return Ok(None);
    };
    let facts = &specific.data;
    if facts.corrupt {
        return Ok(Some(
            "is marked as damaged (see `qemu-img check`)".to_owned(),
        ));
    }
    if let Some(data) = &facts.data_file {
        return Ok(Some(format!("has its data in {data}")));
    }
    let here = qemu::absolute(path)?;
    let other = facts.extents.iter().find(|part| part.filename != here);
    Ok(other.map(|part| format!("has its data in {}", part.filename.display())))
}

/// What an interrupted import must have read to be continued: the same file,
/// read the same way.
fn snapshot(file: &FileSource, format: ImageFormat, length: ByteCount) -> Option<SnapshotId> {
    let id = file.snapshot_id()?;
    let mut facts = id.to_bytes().to_vec();
    facts.extend(format.name().as_bytes());
    facts.extend(length.0.to_be_bytes());
    let digest = ChunkDigest::of(&facts);
    let (id, _) = digest.as_bytes().split_first_chunk::<16>()?;
    Some(SnapshotId::from_bytes(*id))
}
