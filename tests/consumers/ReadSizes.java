import ij.ImagePlus;
import ij.io.Opener;
import ij.measure.Calibration;

/** Prints what ImageJ takes for the size of a pixel of each file, and the value of pixel (1, 1). */
public class ReadSizes {
    public static void main(String[] paths) {
        for (String path : paths) {
            ImagePlus image = new Opener().openImage(path);
            Calibration size = image.getCalibration();
            System.out.println(size.pixelHeight + " " + size.pixelWidth + " " + size.getUnit() + " "
                + image.getProcessor().getf(1, 1));
        }
    }
}
