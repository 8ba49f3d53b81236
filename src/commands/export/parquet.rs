//! Bars as Parquet: every column of table `candles` by its name and type. Prices are the doubles of the
//! database, each the nearest to its exact decimal.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::Sink;
use crate::domain::{Mid, Price};
use crate::store::StoredBar;

/// The columns of `candles`. Only `feed_id` may be absent.
const SCHEMA: &str = "message candles {
    REQUIRED BYTE_ARRAY pair (UTF8);
    REQUIRED BYTE_ARRAY timeframe (UTF8);
    REQUIRED INT64 timestamp;
    REQUIRED DOUBLE open; REQUIRED DOUBLE high; REQUIRED DOUBLE low; REQUIRED DOUBLE close;
    REQUIRED INT64 volume;
    REQUIRED BYTE_ARRAY source (UTF8);
    REQUIRED INT64 created_at;
    REQUIRED DOUBLE bid_open; REQUIRED DOUBLE bid_high; REQUIRED DOUBLE bid_low; REQUIRED DOUBLE bid_close;
    REQUIRED DOUBLE ask_open; REQUIRED DOUBLE ask_high; REQUIRED DOUBLE ask_low; REQUIRED DOUBLE ask_close;
    REQUIRED INT32 revision;
    REQUIRED INT64 updated_at;
    REQUIRED INT64 seq;
    OPTIONAL INT64 feed_id;
}";
/// Bars that are compressed together. They wait in memory.
const GROUP_BARS: usize = 64_000;

/// Writes columns.
pub struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: Vec<StoredBar>,
}

impl<W: Write + Send> Parquet<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(out: W) -> io::Result<Parquet<W>> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(io_error)?);
        let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
        let writer = SerializedFileWriter::new(out, schema, properties).map_err(io_error)?;
        Ok(Parquet { writer, group: Vec::with_capacity(GROUP_BARS) })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let bars = std::mem::take(&mut self.group);
        let mut group = self.writer.next_row_group()?;
        let columns = &mut group;
        texts(columns, &bars, |stored| stored.bar.key.pair.to_string())?;
        texts(columns, &bars, |stored| stored.bar.key.timeframe.to_string())?;
        longs(columns, &bars, |stored| stored.bar.key.start.0)?;
        for field in 0..4 {
            doubles(columns, &bars, |stored| Mid::to_f64(stored.bar.mid()[field]))?;
        }
        longs(columns, &bars, |stored| stored.bar.volume.into())?;
        texts(columns, &bars, |stored| stored.bar.source.to_string())?;
        longs(columns, &bars, |stored| stored.created_at.0)?;
        for field in 0..4 {
            doubles(columns, &bars, |stored| Price::to_f64(stored.bar.bid.prices()[field]))?;
        }
        for field in 0..4 {
            doubles(columns, &bars, |stored| Price::to_f64(stored.bar.ask.prices()[field]))?;
        }
        let revisions: Vec<i32> =
            bars.iter().map(|stored| i32::try_from(stored.revision).unwrap_or(i32::MAX)).collect();
        column::<Int32Type>(columns, &revisions, None)?;
        longs(columns, &bars, |stored| stored.updated_at.0)?;
        longs(columns, &bars, |stored| stored.seq)?;
        let feeds: Vec<i64> = bars.iter().filter_map(|stored| stored.feed_id).collect();
        let levels: Vec<i16> = bars.iter().map(|stored| i16::from(stored.feed_id.is_some())).collect();
        column::<Int64Type>(columns, &feeds, Some(&levels))?;
        group.close()?;
        Ok(())
    }
}

impl<W: Write + Send> Sink for Parquet<W> {
    fn bars(&mut self, page: &[StoredBar]) -> io::Result<()> {
        self.group.extend_from_slice(page);
        if self.group.len() >= GROUP_BARS {
            self.write_group().map_err(io_error)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.group.is_empty() {
            self.write_group().map_err(io_error)?;
        }
        self.writer.into_inner().map_err(io_error)?.flush()
    }
}

fn texts<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    bars: &[StoredBar],
    text: impl Fn(&StoredBar) -> String,
) -> Result<(), ParquetError> {
    let values: Vec<ByteArray> = bars.iter().map(|stored| text(stored).into_bytes().into()).collect();
    column::<ByteArrayType>(group, &values, None)
}

fn longs<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    bars: &[StoredBar],
    value: impl Fn(&StoredBar) -> i64,
) -> Result<(), ParquetError> {
    column::<Int64Type>(group, &bars.iter().map(value).collect::<Vec<_>>(), None)
}

fn doubles<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    bars: &[StoredBar],
    value: impl Fn(&StoredBar) -> f64,
) -> Result<(), ParquetError> {
    column::<DoubleType>(group, &bars.iter().map(value).collect::<Vec<_>>(), None)
}

/// Writes the next column of the schema. `present` says which rows have a value, where not all do.
fn column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: &[T::T],
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    column.typed::<T>().write_batch(values, present, None)?;
    column.close()
}

/// What the disk said is told as it was, so that a full one is known by its name.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    use super::super::csv::COLUMNS;
    use super::*;
    use crate::domain::{Bar, BarKey, Ohlc, Source, Timeframe, Timestamp};

    #[test]
    fn what_was_written_is_read_in_the_columns_of_the_table() {
        let side =
            |units| Ohlc::from_prices([0, 3, -2, 1].map(|more| Price::from_units(units + more).unwrap()));
        let stored = |ix: i64, feed_id| StoredBar {
            bar: Bar {
                key: BarKey {
                    pair: "EURUSD".parse().unwrap(),
                    timeframe: Timeframe::M15,
                    start: Timestamp(ix * 900),
                },
                bid: side(110_000_000 + ix),
                ask: side(110_010_001 + ix),
                volume: 7,
                source: Source::Rest,
            },
            created_at: Timestamp(11),
            updated_at: Timestamp(12),
            revision: 3,
            seq: ix,
            feed_id,
        };
        // More than one group of rows.
        let bars: Vec<StoredBar> =
            (0..GROUP_BARS as i64 + 5).map(|ix| stored(ix, (ix % 2 == 0).then_some(9))).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut sink = Box::new(Parquet::begin(std::fs::File::create(&path).unwrap()).unwrap());
        bars.chunks(4_000).for_each(|page| sink.bars(page).unwrap());
        sink.finish().unwrap();

        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let mut count = 0;
        for (row, stored) in reader.get_row_iter(None).unwrap().zip(&bars) {
            let row = row.unwrap();
            let names: Vec<&str> = row.get_column_iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, COLUMNS);
            let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
            let double = |price: Price| Field::Double(price.to_f64());
            assert_eq!(*fields[0], Field::Str("EUR_USD".to_owned()));
            assert_eq!(*fields[1], Field::Str("15".to_owned()));
            assert_eq!(*fields[2], Field::Long(stored.bar.key.start.0));
            assert_eq!(*fields[4], Field::Double(stored.bar.mid()[1].to_f64()));
            assert_eq!((fields[7], fields[9]), (&Field::Long(7), &Field::Long(11)));
            assert_eq!(
                [fields[11], fields[17]],
                [&double(stored.bar.bid.high), &double(stored.bar.ask.close)]
            );
            assert_eq!(
                (fields[18], fields[19], fields[20]),
                (&Field::Int(3), &Field::Long(12), &Field::Long(stored.seq))
            );
            assert_eq!(*fields[21], stored.feed_id.map_or(Field::Null, Field::Long));
            count += 1;
        }
        assert_eq!(count, bars.len());
    }
}
