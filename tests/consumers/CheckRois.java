import ij.ImagePlus;
import ij.gui.Roi;
import ij.io.Opener;
import ij.io.RoiDecoder;
import ij.process.ImageProcessor;
import java.awt.Point;
import java.io.FileInputStream;
import java.util.HashMap;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;

/** Compares each ROI of a zip file with the label of its name: LABELS.tif ROIS.zip. */
public class CheckRois {
    public static void main(String[] arguments) throws Exception {
        ImagePlus image = new Opener().openImage(arguments[0]);
        ImageProcessor labels = image.getProcessor();
        Map<Integer, Integer> areas = new HashMap<>();
        for (int i = 0; i < labels.getPixelCount(); i++) {
            int id = Math.round(labels.getf(i));
            if (id != 0) areas.merge(id, 1, Integer::sum);
        }
        int exact = 0, count = 0;
        try (ZipInputStream zip = new ZipInputStream(new FileInputStream(arguments[1]))) {
            for (ZipEntry entry; (entry = zip.getNextEntry()) != null; count++) {
                Roi roi = RoiDecoder.openFromByteArray(zip.readAllBytes());
                int id = Integer.parseInt(roi.getName()), inside = 0, total = 0;
                for (Point point : roi.getContainedPoints()) {
                    total++;
                    boolean isIn = point.x >= 0 && point.y >= 0 && point.x < labels.getWidth()
                        && point.y < labels.getHeight();
                    if (isIn && Math.round(labels.getf(point.x, point.y)) == id) inside++;
                }
                if (inside == total && inside == areas.getOrDefault(id, 0)) exact++;
                else System.out.println("differs: " + id + " " + inside + " " + total + " "
                    + areas.get(id));
            }
        }
        double width = image.getCalibration().pixelWidth;
        System.out.println("cells " + areas.size() + " rois " + count + " exact " + exact
            + " pixel " + width + " " + image.getCalibration().getUnit());
    }
}
