"""A small DICOM slide, written with pydicom: one level of uncompressed or JPEG tiles."""

import imagecodecs
import numpy as np


def write_dicom_slide(path, image, *, tile=64, pixel_mm=(0.0005, 0.00025), compress=False):
    """Write ``(H, W, 3)`` uint8 as a tiled slide, pixels of a size (y, x), and return the path."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        JPEGBaseline8Bit,
        VLWholeSlideMicroscopyImageStorage,
        generate_uid,
    )

    height, width, _ = image.shape
    frames = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = image[top : top + tile, left : left + tile]
            missing = [(0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)]
            frames.append(np.pad(part, missing, "edge"))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if compress else ExplicitVRLittleEndian
    slide = Dataset()
    slide.file_meta = meta
    slide.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    slide.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    slide.SeriesInstanceUID, slide.StudyInstanceUID = generate_uid(), generate_uid()
    slide.Modality = "SM"
    slide.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.Rows = slide.Columns = tile
    slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = height, width
    slide.NumberOfFrames = len(frames)
    slide.DimensionOrganizationType = "TILED_FULL"
    slide.SamplesPerPixel, slide.PlanarConfiguration = 3, 0
    slide.PhotometricInterpretation = "YBR_FULL_422" if compress else "RGB"
    slide.BitsAllocated = slide.BitsStored = 8
    slide.HighBit, slide.PixelRepresentation = 7, 0
    slide.TotalPixelMatrixFocalPlanes = slide.NumberOfOpticalPaths = 1
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(pixel_mm), 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    if compress:
        slide.PixelData = encapsulate([imagecodecs.jpeg8_encode(each, 95) for each in frames])
        slide["PixelData"].is_undefined_length = True
    else:
        slide.PixelData = np.stack(frames).tobytes()
    slide.save_as(path, enforce_file_format=True)
    return path
