"""Outlines of the salient objects of 101 ImageNet photos, to choose settings of saliency by.

outlines.json: file name -> polygons, whose union is salient; corners are [x, y] in per cent of the
photo's width and height. Drawn by eye on a grid, 10 to 30 corners an object, of 120 photos drawn at
random from the 400 of every 2.5th class in github.com/EliSchwartz/imagenet-sample-images; 19 of
them had no object that stands out. No network learns from them, and no figure of ECSSD was used.
"""
