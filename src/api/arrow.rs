//! Bars as Arrow's stream of record batches: what pandas and polars take without reading text.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampSecondArray, UInt32Array,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Field, Schema};

use crate::store::StoredBar;

/// What a stream of these bytes is called.
pub const CONTENT_TYPE: &str = "application/vnd.apache.arrow.stream";

/// The bars of one side, oldest first, in one batch; `prices` has open, high, low and close of each. What is said of
/// them besides is metadata of the schema.
///
/// # Errors
/// Where Arrow finds fault with the columns, which are of one length.
pub fn stream(
    bars: &[StoredBar],
    prices: &[[f64; 4]],
    told: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<u8>, ArrowError> {
    let starts = bars.iter().map(|stored| stored.bar.key.start.0);
    let price = |field: usize| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(prices.iter().map(|prices| prices[field])))
    };
    let columns: [(&str, ArrayRef); 9] = [
        ("time", Arc::new(TimestampSecondArray::from_iter_values(starts).with_timezone("UTC"))),
        ("open", price(0)),
        ("high", price(1)),
        ("low", price(2)),
        ("close", price(3)),
        ("volume", Arc::new(UInt32Array::from_iter_values(bars.iter().map(|stored| stored.bar.volume)))),
        (
            "source",
            Arc::new(StringArray::from_iter_values(bars.iter().map(|stored| stored.bar.source.as_str()))),
        ),
        ("revision", Arc::new(UInt32Array::from_iter_values(bars.iter().map(|stored| stored.revision)))),
        ("seq", Arc::new(Int64Array::from_iter_values(bars.iter().map(|stored| stored.seq)))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), false)).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, told.into_iter().collect::<HashMap<_, _>>()));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&batch)?;
    writer.finish()?;
    writer.into_inner()
}
