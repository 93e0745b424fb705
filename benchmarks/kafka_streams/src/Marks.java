import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Set;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Deduplication and venue-hour buckets in one RocksDB store: venue, hour, person, mark → a tag of the scan. A
 * bucket is a prefix scan. The same tag again is a redelivery and is published again; another is a duplicate.
 */
final class Marks implements FixedKeyProcessorSupplier<String, Scan, byte[]> {
    private static final String STORE = "marks";

    @Override
    public Set<StoreBuilder<?>> stores() {
        return Set.of(Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.Bytes(),
                Serdes.Integer()));
    }

    @Override
    public FixedKeyProcessor<String, Scan, byte[]> get() {
        return new ContextualFixedKeyProcessor<>() {
            private KeyValueStore<Bytes, Integer> marks;

            @Override
            public void init(FixedKeyProcessorContext<String, byte[]> context) {
                super.init(context);
                marks = context.getStateStore(STORE);
            }

            @Override
            public void process(FixedKeyRecord<String, Scan> record) {
                Scan scan = record.value();
                int tag = scan.scanId().hashCode();
                Integer known = marks.putIfAbsent(key(scan), tag);
                if (known == null || known == tag) {
                    context().forward(record.withValue(Json.visit(scan, record.timestamp())));
                }
            }
        };
    }

    private static Bytes key(Scan scan) {
        byte[] venue = scan.venue().getBytes(StandardCharsets.US_ASCII);
        int kind = switch (scan.kind()) {
            case "in" -> 0;
            case "out" -> 1;
            default -> 2;
        };
        return Bytes.wrap(ByteBuffer.allocate(venue.length + 14)
                .put(venue).put((byte) 0)
                .putInt((int) (scan.minute() / 60))
                .putLong(Long.parseUnsignedLong(scan.person(), 16))
                .put((byte) (kind << 6 | scan.minute() % 60))
                .array());
    }
}
