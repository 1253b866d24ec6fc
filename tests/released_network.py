"""The released way to the maps: the network of its library, MONAI windows, whole-image flips."""

import torch
from torch import nn

from mediar_infer.engine.windows import SIGMA_SCALE


def to_mish(module):
    """Replace every ReLU below ``module`` and count them."""
    n = 0
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.Mish(inplace=True))
            n += 1
        else:
            n += to_mish(child)
    return n


def head(in_channels, out_channels):
    hidden = in_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1),
        nn.Mish(),
        nn.BatchNorm2d(hidden),
        nn.Conv2d(hidden, out_channels, kernel_size=3, padding=1),
    )


class LibraryFormer(nn.Module):
    """MEDIAR-Former made of ``segmentation_models_pytorch.MAnet`` and two heads."""

    def __init__(self, encoder_name, decoder_channels, pab_channels):
        super().__init__()
        import segmentation_models_pytorch as smp

        manet = smp.MAnet(
            encoder_name=encoder_name,
            encoder_weights=None,
            decoder_channels=decoder_channels,
            decoder_pab_channels=pab_channels,
        )
        self.encoder, self.decoder = manet.encoder, manet.decoder
        self.n_mish = to_mish(self.decoder)
        self.cellprob_head = head(decoder_channels[-1], 1)
        self.gradflow_head = head(decoder_channels[-1], 2)

    def forward(self, inputs):
        decoded = self.decoder(self.encoder(inputs))
        return torch.cat([self.gradflow_head(decoded), self.cellprob_head(decoded)], dim=1)


def monai_maps(inputs, predictor, roi_size, overlap):
    from monai.inferers.utils import sliding_window_inference

    return sliding_window_inference(
        inputs, (roi_size, roi_size), 4, predictor, overlap=overlap, mode="gaussian",
        sigma_scale=SIGMA_SCALE, padding_mode="constant",
    )  # fmt: skip


def released_maps(image, predictors, flips, roi_size, overlap):
    """Literal: flip the whole image, slide, flip back, turn the flow; mean of all passes."""
    inputs = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    axis_of = {"horizontal": 3, "vertical": 2}
    total = torch.zeros_like(inputs)
    for predictor in predictors:
        for flip in flips:
            axes = [axis_of[flip]] if flip != "identity" else []
            maps = monai_maps(inputs.flip(axes), predictor, roi_size, overlap).flip(axes)
            if flip == "vertical":
                maps[:, 0] = -maps[:, 0]
            if flip == "horizontal":
                maps[:, 1] = -maps[:, 1]
            total += maps
    return (total / (len(predictors) * len(flips)))[0].numpy()
