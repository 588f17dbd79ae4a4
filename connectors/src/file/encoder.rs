//! Rows as the bytes of one file, a slice at a time, so that its size is known on the way.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::ZstdLevel;
use parquet::file::properties::WriterProperties;

use crate::file::config::Compression;
use crate::formats::changelog;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How rows become a file.
#[derive(Debug, Clone)]
pub struct Encoding {
    pub format: FileFormat,
    pub compression: Compression,
    /// Of the rows in the files.
    pub schema: SchemaRef,
}

#[derive(Debug, Clone)]
pub enum FileFormat {
    Json,
    Csv { writer: Box<arrow_csv::WriterBuilder>, header: bool },
    Parquet,
}

impl Encoding {
    /// How the names of its files end.
    pub fn ending(&self) -> &'static str {
        match (&self.format, self.compression) {
            (FileFormat::Json, Compression::Gzip) => "jsonl.gz",
            (FileFormat::Json, _) => "jsonl",
            (FileFormat::Csv { .. }, Compression::Gzip) => "csv.gz",
            (FileFormat::Csv { .. }, _) => "csv",
            (FileFormat::Parquet, _) => "parquet",
        }
    }

    pub fn encoder(&self) -> Result<FileEncoder, Error> {
        if let FileFormat::Parquet = self.format {
            let compression = match self.compression {
                Compression::Snappy => parquet::basic::Compression::SNAPPY,
                Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
                Compression::None | Compression::Gzip => parquet::basic::Compression::UNCOMPRESSED,
            };
            let properties = WriterProperties::builder().set_compression(compression).build();
            let writer = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties))?;
            return Ok(FileEncoder::Parquet(Box::new(writer)));
        }
        let out = match self.compression {
            // Without a time in its header, the same rows are the same bytes.
            Compression::Gzip => Out::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default())),
            _ => Out::Plain(Vec::new()),
        };
        Ok(match &self.format {
            FileFormat::Csv { writer, header } => {
                FileEncoder::Csv { writer: writer.clone(), header: *header, out }
            }
            _ => FileEncoder::Json(out),
        })
    }
}

/// A file in the making, in memory.
pub enum FileEncoder {
    Json(Out),
    Csv {
        writer: Box<arrow_csv::WriterBuilder>,
        /// Whether it is still to come.
        header: bool,
        out: Out,
    },
    Parquet(Box<ArrowWriter<Vec<u8>>>),
}

pub enum Out {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Out {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Out::Plain(out) => out.extend_from_slice(bytes),
            Out::Gzip(out) => out.write_all(bytes)?,
        }
        Ok(())
    }

    fn len(&self) -> usize {
        match self {
            Out::Plain(out) => out.len(),
            Out::Gzip(out) => out.get_ref().len(),
        }
    }

    fn finish(self) -> Result<Vec<u8>, Error> {
        match self {
            Out::Plain(out) => Ok(out),
            Out::Gzip(out) => Ok(out.finish()?),
        }
    }
}

impl FileEncoder {
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        match self {
            FileEncoder::Json(out) => out.write(&changelog::json_lines(rows)?),
            FileEncoder::Csv { writer, header, out } => {
                let writer = writer.as_ref().clone().with_header(std::mem::take(header));
                out.write(&changelog::csv_lines(rows, &writer)?)
            }
            FileEncoder::Parquet(writer) => Ok(writer.write(rows)?),
        }
    }

    /// How long the file would be now, about.
    pub fn n_bytes(&self) -> usize {
        match self {
            FileEncoder::Json(out) | FileEncoder::Csv { out, .. } => out.len(),
            FileEncoder::Parquet(writer) => writer.bytes_written() + writer.in_progress_size(),
        }
    }

    pub fn finish(self) -> Result<Bytes, Error> {
        let bytes = match self {
            FileEncoder::Json(out) | FileEncoder::Csv { out, .. } => out.finish()?,
            FileEncoder::Parquet(writer) => writer.into_inner()?,
        };
        Ok(bytes.into())
    }
}
