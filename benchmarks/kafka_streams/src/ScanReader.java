import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/**
 * Reads scans and checks every field as schemas/events.py says: strict types, unknown fields ignored, an invalid
 * element of an array refused alone. Jackson's streaming parser, the quickest way that Jackson documents.
 */
final class ScanReader {
    private static final JsonFactory JSON = new JsonFactory();
    private static final String CODE_LETTERS = "CDEFHJKMPRTVWXY2345689";
    private static final long MAX_MS = 253_402_300_799_999L;
    private static final int MAX_SCANS = 1_000;

    private ScanReader() {
    }

    /** The valid scans of a record: one object, or an array of up to 1,000. */
    static List<Scan> read(byte[] value) {
        if (value == null) {
            return List.of();
        }
        try (JsonParser parser = JSON.createParser(value)) {
            JsonToken first = parser.nextToken();
            List<Scan> scans = new ArrayList<>(1);
            if (first == JsonToken.START_OBJECT) {
                add(scans, object(parser));
            } else if (first == JsonToken.START_ARRAY) {
                int count = 0;
                for (JsonToken next; (next = parser.nextToken()) != JsonToken.END_ARRAY; count++) {
                    if (next == JsonToken.START_OBJECT) {
                        add(scans, object(parser));
                    } else {
                        parser.skipChildren();
                    }
                }
                if (count > MAX_SCANS) {
                    return List.of();
                }
            }
            return parser.nextToken() == null ? scans : List.of();
        } catch (IOException malformed) {
            return List.of();
        }
    }

    private static void add(List<Scan> scans, Scan scan) {
        if (scan != null) {
            scans.add(scan);
        }
    }

    /** The object that begins here, read to its end; null when a field is missing or wrong. */
    private static Scan object(JsonParser parser) throws IOException {
        String scanId = null;
        String person = null;
        String venue = null;
        String kind = "in";
        String source = "person";
        long scannedAt = -1;
        long receivedAt = -1;
        long party = 1;
        boolean valid = true;
        for (String name; (name = parser.nextFieldName()) != null;) {
            JsonToken token = parser.nextToken();
            switch (name) {
                case "scan_id" -> valid &= isUuid(scanId = text(parser, token));
                case "person" -> valid &= isPerson(person = text(parser, token));
                case "venue" -> valid &= isCode(venue = text(parser, token));
                case "kind" -> {
                    kind = text(parser, token);
                    valid &= "in".equals(kind) || "out".equals(kind) || "void".equals(kind);
                }
                case "source" -> {
                    source = text(parser, token);
                    valid &= "person".equals(source) || "venue".equals(source) || "manual".equals(source)
                            || "event".equals(source);
                }
                case "gateway" -> {
                    String gateway = text(parser, token);
                    valid &= gateway != null && gateway.codePointCount(0, gateway.length()) <= 64;
                }
                case "scanned_at" -> valid &= isTime(scannedAt = number(parser, token));
                case "received_at" -> valid &= isTime(receivedAt = number(parser, token));
                case "party" -> {
                    party = number(parser, token);
                    valid &= party >= 1 && party <= 50;
                }
                default -> parser.skipChildren();
            }
        }
        valid &= scanId != null && person != null && venue != null && scannedAt >= 0;
        return valid ? new Scan(scanId, person, venue, scannedAt, kind, source, (int) party, receivedAt) : null;
    }

    private static String text(JsonParser parser, JsonToken token) throws IOException {
        if (token == JsonToken.VALUE_STRING) {
            return parser.getText();
        }
        parser.skipChildren();
        return null;
    }

    private static long number(JsonParser parser, JsonToken token) throws IOException {
        if (token == JsonToken.VALUE_NUMBER_INT) {
            return parser.getNumberType() == JsonParser.NumberType.BIG_INTEGER ? -1 : parser.getLongValue();
        }
        parser.skipChildren();
        return -1;
    }

    private static boolean isTime(long ms) {
        return ms >= 0 && ms <= MAX_MS;
    }

    private static boolean isUuid(String text) {
        if (text == null || text.length() != 36) {
            return false;
        }
        for (int at = 0; at < 36; at++) {
            char letter = text.charAt(at);
            boolean dash = at == 8 || at == 13 || at == 18 || at == 23;
            boolean fits = dash ? letter == '-' : isHex(letter) || letter >= 'A' && letter <= 'F';
            if (!fits) {
                return false;
            }
        }
        return true;
    }

    private static boolean isPerson(String text) {
        return text != null && text.length() == 16 && text.chars().allMatch(ScanReader::isHex);
    }

    private static boolean isHex(int letter) {
        return letter >= '0' && letter <= '9' || letter >= 'a' && letter <= 'f';
    }

    private static boolean isCode(String text) {
        return text != null && text.length() >= 4 && text.length() <= 12
                && text.chars().allMatch(letter -> CODE_LETTERS.indexOf(letter) >= 0);
    }
}
