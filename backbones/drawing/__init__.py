"""Drawing of objects and label maps over photographs: sheets of objects, labels and texts on a canvas.

The overlays of predictions, the samples of a training and the gallery of a report are drawn here, each in some ten
milliseconds. Imports numpy, OpenCV, Pillow and pycocotools; of the project only `backbones.data.palette`.
"""
