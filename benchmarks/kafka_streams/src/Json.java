import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** How scans travel to the task that owns their venue, and visits to whoever reads them. */
final class Json {
    private static final JsonFactory JSON = new JsonFactory();

    private Json() {
    }

    /** A scan that was found valid; read back by the same reader. */
    static Serde<Scan> scans() {
        return Serdes.serdeFrom((topic, scan) -> scan == null ? null : write(scan, -1),
                (topic, bytes) -> bytes == null ? null : ScanReader.read(bytes).get(0));
    }

    /** A visit as schemas/events.py describes it. `arrival`: ms. */
    static byte[] visit(Scan scan, long arrival) {
        return write(scan, scan.receivedAt() >= 0 ? scan.receivedAt() : arrival);
    }

    private static byte[] write(Scan scan, long arrival) {
        boolean visit = arrival >= 0;
        ByteArrayOutputStream out = new ByteArrayOutputStream(256);
        try (JsonGenerator json = JSON.createGenerator(out)) {
            json.writeStartObject();
            json.writeStringField("scan_id", scan.scanId());
            json.writeStringField("person", scan.person());
            json.writeStringField("venue", scan.venue());
            if (visit) {
                json.writeNumberField("hour", scan.minute() / 60);
                json.writeNumberField("minute", scan.minute() % 60);
            } else {
                json.writeNumberField("scanned_at", scan.scannedAt());
            }
            json.writeStringField("kind", scan.kind());
            json.writeStringField("source", scan.source());
            json.writeNumberField("party", scan.party());
            if (visit) {
                json.writeNumberField("received_at", arrival);
            } else if (scan.receivedAt() >= 0) {
                json.writeNumberField("received_at", scan.receivedAt());
            }
            json.writeEndObject();
        } catch (IOException error) {
            throw new UncheckedIOException(error); // into memory: it cannot be
        }
        return out.toByteArray();
    }
}
