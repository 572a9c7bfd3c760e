"""The picture sheet: a dataset as one page, to look at before anything is trained."""

from unetx_studies.sheet.facts import PARTS as PARTS
from unetx_studies.sheet.facts import CaseGrid as CaseGrid
from unetx_studies.sheet.facts import ChannelIntensities as ChannelIntensities
from unetx_studies.sheet.facts import ClassSize as ClassSize
from unetx_studies.sheet.facts import DatasetFacts as DatasetFacts
from unetx_studies.sheet.facts import Decision as Decision
from unetx_studies.sheet.facts import Part as Part
from unetx_studies.sheet.facts import PilotFacts as PilotFacts
from unetx_studies.sheet.facts import PilotTraining as PilotTraining
from unetx_studies.sheet.facts import axis_ranges as axis_ranges
from unetx_studies.sheet.facts import number_words as number_words
from unetx_studies.sheet.facts import size_words as size_words
from unetx_studies.sheet.page import sheet_html as sheet_html
from unetx_studies.sheet.pictures import Picture as Picture
from unetx_studies.sheet.pictures import make_picture as make_picture
